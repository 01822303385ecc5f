"""What the interoperability tests share: the command line, the texts, and how near is near enough."""
import contextlib
import json
import os
import pathlib
import re
import subprocess

import pytest

BUILD = pathlib.Path(os.environ["FATHOM_BUILD"])
TEXTS = pathlib.Path(os.environ["FATHOM_TEXTS"])


@pytest.fixture(scope="session")
def fathom():
    """Runs `fathom ARGUMENTS... --json` and returns the object that it prints; fails with its stderr."""

    def run(*arguments, parse=True, **keywords):
        command = [str(BUILD / "fathom"), *map(str, arguments)] + (["--json"] if parse else [])
        done = subprocess.run(command, capture_output=True, text=True, **keywords)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return json.loads(done.stdout) if parse else done.stdout

    return run


@contextlib.contextmanager
def serving(directory, *options):
    """`fathom serve` of a model on a free port, as the address that it prints, http://127.0.0.1:PORT, until the block ends; then it has to
    end well."""
    command = [str(BUILD / "fathom"), "serve", str(directory), "--port", "0", "--threads", "1", "--log", os.devnull, *map(str, options)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        line = server.stderr.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert address, line + server.stderr.read()
        yield address.group()
        server.terminate()
        assert server.wait(60) == 0
    finally:
        server.kill()
        server.wait()
        server.stderr.close()


@pytest.fixture(scope="session")
def text_file():
    """The path of one of the texts; skips where it is not there."""

    def path(name):
        if not (TEXTS / name).exists():
            pytest.skip(f"no {TEXTS / name}: TEXTS=FOLDER says where it is")
        return TEXTS / name

    return path


def relative_error(ours, theirs):
    """Largest difference over the largest value of theirs: what "to 1e-4" means in these tests."""
    import numpy as np

    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return np.abs(ours - theirs).max() / np.abs(theirs).max()
