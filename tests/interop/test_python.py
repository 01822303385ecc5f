"""`pip install ./python` makes a package that works from anywhere, its library found by the system's loader."""
import os
import shutil
import subprocess
import sys

from conftest import BUILD

ROOT = os.environ["FATHOM_ROOT"]


def test_pip_installs_the_package(fathom, tmp_path):
    source = tmp_path / "source"  # a build leaves files in the tree
    shutil.copytree(f"{ROOT}/python", source / "python", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    shutil.copytree(f"{ROOT}/include", source / "include")
    packages = tmp_path / "packages"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", packages,
                    source / "python"], check=True)
    assert (packages / "fathom" / "py.typed").exists()
    (tmp_path / "text.txt").write_text("".join(f"{i}\n" for i in range(2000)))
    fathom("train", "--data", tmp_path / "text.txt", "--out", tmp_path / "run", "--steps", 5, "--layers", 2, "--dim", 32, "--heads", 2,
           "--seq-len", 64, "--batch", 2, "--mod", "topk")
    environment = {key: value for key, value in os.environ.items() if key != "FATHOM_LIBRARY"}
    environment.update(PYTHONPATH=str(packages), LD_LIBRARY_PATH=str(BUILD))
    program = ("import fathom, importlib.metadata as metadata; assert metadata.version('fathom') == fathom.__version__; "
               "print(fathom.__file__); print(''.join(fathom.Model.load('run').generate('12', max_tokens=9, temperature=0)), end='|')")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    place, text = done.stdout.split("\n", 1)
    assert place == str(packages / "fathom" / "__init__.py")
    wanted = fathom("generate", tmp_path / "run", "--prompt", "12", "--max-tokens", 9, "--temperature", 0)
    assert text == wanted["text"] + "|"
