"""The event files of `fathom train --tensorboard`, read by TensorBoard itself, say what log.jsonl says: also after a kill and --resume."""
import json
import pathlib
import signal
import subprocess
import time

import pytest

from conftest import BUILD

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

TAGS = {"eval_loss": "eval/loss", "eval_loss_causal": "eval/loss_causal", "eval_router_accuracy": "eval/router_accuracy",
        "eval_routed_fraction": "eval/routed_fraction"}
TAGS.update({key: f"train/{key}" for key in ("loss", "lr", "grad_norm", "tokens_per_s", "aux_loss", "router_accuracy", "dropped")})
OPTIONS = ["--layers", 2, "--dim", 32, "--heads", 2, "--seq-len", 32, "--batch", 2, "--threads", 1, "--eval-tokens", 64]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(f"row {i}: {i * i % 97}" for i in range(2000)))
    return path


def logged(run):
    """{tag: [(step, value)]} of log.jsonl"""
    series = {}
    for line in (run / "log.jsonl").read_text().splitlines():
        entry = json.loads(line)
        for key, tag in TAGS.items():
            if entry.get(key) is not None:
                series.setdefault(tag, []).append((entry["step"], entry[key]))
    return series


def check(run):
    events = event_accumulator.EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    expected = logged(run)
    assert sorted(events.Tags()["scalars"]) == sorted(expected)
    for tag, points in expected.items():
        shown = events.Scalars(tag)
        assert [e.step for e in shown] == [step for step, _ in points], tag
        assert [e.value for e in shown] == pytest.approx([value for _, value in points], rel=2e-7), tag
        assert all(abs(e.wall_time - time.time()) < 600 for e in shown), tag
    return expected


@pytest.mark.parametrize("kind", ["none", "topk", "token-choice"])
def test_scalars(fathom, text, tmp_path, kind):
    run = tmp_path / "run"
    fathom("train", "--data", text, "--out", run, "--steps", 30, "--log-every", 3, "--eval-every", 10, "--mod", kind, "--tensorboard",
           *OPTIONS)
    found = check(run)
    assert ("train/router_accuracy" in found) == (kind != "none")
    assert ("train/dropped" in found) == (kind == "token-choice")
    assert [step for step, _ in found["eval/loss"]] == [10, 20, 30]


def test_not_asked_for(fathom, text, tmp_path):
    fathom("train", "--data", text, "--out", tmp_path / "run", "--steps", 2, *OPTIONS)
    assert not list((tmp_path / "run").glob("*tfevents*"))


def test_kill_and_resume(fathom, text, tmp_path):
    """The kill falls after steps that were logged and not saved: they are trained again and must be shown once."""
    run, options = tmp_path / "run", ["--data", text, "--steps", 3000, "--save-every", 400, "--log-every", 1, "--eval-every", 100]
    command = ["train", "--out", run, *options, "--mod", "topk", "--tensorboard", *OPTIONS]
    for _ in range(20):
        process = subprocess.Popen([str(BUILD / "fathom"), *map(str, command)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None and not ((run / "trainer" / "state.json").exists() and last_step(run) % 400 > 50):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        saved = json.loads((run / "trainer" / "state.json").read_text())["step"]
        if 0 < saved < last_step(run) < 3000:
            break
        for path in sorted(run.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    else:
        pytest.fail("no kill fell between checkpoints")
    shown_before = event_accumulator.EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload().Scalars("train/loss")
    assert shown_before[-1].step > saved  # else nothing is tested
    fathom("train", "--data", text, "--out", run, "--resume")  # the option is remembered
    assert len(list(run.glob("events.out.tfevents.*"))) == 2
    assert [step for step, _ in check(run)["train/loss"]] == list(range(1, 3001))
    fathom("train", "--data", text, "--out", run, "--resume")  # at its end: nothing to tell
    assert len(list(run.glob("events.out.tfevents.*"))) == 2


def last_step(run):
    log: pathlib.Path = run / "log.jsonl"
    lines = log.read_bytes().rpartition(b"\n")[0].splitlines() if log.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0
