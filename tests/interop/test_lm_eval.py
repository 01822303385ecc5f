"""lm-evaluation-harness, as it comes, scores models through `fathom serve`: what it records is what the engine says of the same tokens."""
import json
import os
import random
import subprocess
import sys

import fathom as engine
import numpy as np
import pytest

from conftest import serving

T = 128
NEAR = 1e-3
KINDS = {"plain": [], "mod": ["--mod", "topk", "--mod-capacity", "0.25"]}
BUILT_IN = dict(dataset_path="json", test_split="test", doc_to_text="{{context}}", metadata={"version": 1})
MEAN = dict(aggregation="mean", higher_is_better=True)
TASKS = {
    "choice": dict(output_type="multiple_choice", doc_to_choice="{{choices}}", doc_to_target="answer", metric_list=[dict(metric="acc", **MEAN)]),
    "rolling": dict(output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{context}}",
                    metric_list=[dict(metric="bits_per_byte", aggregation="bits_per_byte", higher_is_better=False)]),
    "until": dict(output_type="generate_until", doc_to_target="{{choices[answer]}}", metric_list=[dict(metric="exact_match", **MEAN)],
                  generation_kwargs=dict(until=[",", "."], max_gen_toks=24, do_sample=False)),
}


@pytest.fixture(scope="module")
def verses(text_file):
    paragraphs = (" ".join(p.split()) for p in text_file("kjv.txt").read_text().split("\n\n"))
    return [p for p in paragraphs if ":" in p]


@pytest.fixture(scope="module")
def documents(verses):
    """Verses that no model has seen, cut in the middle; the wrong ends are the right one's words in another order."""
    rng, made = random.Random(1), []
    for verse in verses[-2000::50]:
        words = verse.split()[:30]
        begin, end = words[: len(words) // 2], words[len(words) // 2 :]
        ends = [end, *(rng.sample(end, len(end)) for _ in range(3))]
        answer = rng.randrange(4)
        ends[0], ends[answer] = ends[answer], ends[0]
        made.append(dict(context=" ".join(begin), choices=[" ".join(e) for e in ends], answer=answer))
    assert len(made) == 40
    return made


@pytest.fixture(scope="module")
def folder(verses, fathom, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm_eval")
    (folder / "train.txt").write_text("\n".join(verses[:-2000]))
    fathom("tokenizer", "train", "--data", folder / "train.txt", "--out", folder / "tokenizer.json", "--vocab", 512)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def run(request, fathom, folder):
    run = folder / request.param
    fathom("train", "--data", folder / "train.txt", "--tokenizer", folder / "tokenizer.json", "--out", run, "--steps", 60, "--layers", 4, "--dim", 64,
           "--heads", 2, "--seq-len", T, "--batch", 8, "--lr", "5e-3", "--eval-tokens", 1280, "--threads", 1, *KINDS[request.param])
    return run


@pytest.fixture(scope="module")
def samples(run, documents, folder):
    """{task: what the harness logs for each document}, and its table of results."""
    work = folder / f"harness-{run.name}"
    work.mkdir()
    (work / "verses.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    for name, task in TASKS.items():
        task = {**BUILT_IN, **task, "task": name, "dataset_kwargs": {"data_files": {"test": str(work / "verses.jsonl")}}}
        (work / f"{name}.yaml").write_text(json.dumps(task))  # JSON is YAML
    with serving(run) as address:
        arguments = dict(base_url=f"{address}/v1/completions", model=run.name, tokenizer=run, max_length=T, tokenized_requests=True, num_concurrent=4,
                         custom_prefix_token_id=engine.Model.load(run, threads=1).encode("\n")[0])
        command = [sys.executable, "-m", "lm_eval", "run", "--model", "local-completions", "--model_args",
                   ",".join(f"{key}={value}" for key, value in arguments.items()), "--tasks", ",".join(TASKS), "--include_path", work,
                   "--batch_size", "8", "--log_samples", "--output_path", work / "out"]
        environment = {**os.environ, "HF_HOME": str(work / "cache"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, cwd=work)
    assert done.returncode == 0, done.stderr[-5000:]
    results = json.loads(next(work.glob("out/**/results_*.json")).read_text())["results"]
    logged = {name: [json.loads(line) for line in next(work.glob(f"out/**/samples_{name}_*.jsonl")).read_text().splitlines()] for name in TASKS}
    return results, {name: sorted(rows, key=lambda row: row["doc_id"]) for name, rows in logged.items()}


@pytest.fixture(scope="module")
def model(run):
    return engine.Model.load(run, threads=1)


def log_probabilities(model, ids):
    """Of each token but the first, and whether it is the likeliest one: causally routed, in one pass."""
    logits = model.logits(ids)[:-1].astype(np.float64)
    chosen = logits[np.arange(len(ids) - 1), ids[1:]]
    return chosen - np.logaddexp.reduce(logits, -1), chosen == logits.max(-1)


def test_multiple_choice(samples, model, documents):
    results, logged = samples
    assert results["choice"]["acc,none"] > 0.5  # chance is 0.25 +- 0.07
    worst = 0
    for document, row in zip(documents, logged["choice"], strict=True):
        for choice, response in zip(document["choices"], row["filtered_resps"], strict=True):
            ids, context = model.encode(document["context"] + " " + choice), model.encode(document["context"])
            value, greedy = float(response[0]), str(response[1]) == "True"
            scores, likeliest = log_probabilities(model, ids)
            by_loss = model.loss(context).loss * (len(context) - 1) - model.loss(ids).loss * (len(ids) - 1)  # as `fathom eval` counts
            worst = max(worst, abs(value - scores[len(context) - 1:].sum()), abs(value - by_loss))
            assert greedy == likeliest[len(context) - 1:].all()
    print(f"acc {results['choice']['acc,none']}, largest difference of log-likelihoods {worst:.1e}")
    assert worst < NEAR


def test_the_command_says_the_same(samples, model, run, documents, fathom, tmp_path):
    """`fathom eval` itself, on files of one text each."""

    def log_likelihood(text):
        (tmp_path / "one.txt").write_text(text)
        count = len(model.encode(text))
        said = fathom("eval", run, "--data", tmp_path / "one.txt", "--routing", "causal", "--seq-len", count - 1, "--threads", 1)
        assert said["tokens"] == count - 1
        return -said["loss"] * said["tokens"]

    worst = 0
    for document, row in list(zip(documents, samples[1]["choice"], strict=True))[::4]:
        for choice, response in zip(document["choices"], row["filtered_resps"], strict=True):
            expected = log_likelihood(document["context"] + " " + choice) - log_likelihood(document["context"])
            worst = max(worst, abs(float(response[0]) - expected))
    print(f"largest difference from fathom eval {worst:.1e}")
    assert worst < NEAR


def test_rolling(samples, model, documents):
    """Whole texts, after a line's end."""
    results, logged = samples
    expected = [log_probabilities(model, [model.encode("\n")[0], *model.encode(d["context"])])[0].sum() for d in documents]
    assert [float(row["filtered_resps"][0]) for row in logged["rolling"]] == pytest.approx(expected, abs=NEAR)
    size = sum(len(d["context"].encode()) for d in documents)
    assert results["rolling"]["bits_per_byte,none"] == pytest.approx(-sum(expected) / size / np.log(2), rel=1e-4)


def test_generation(samples, model, documents):
    for document, row in zip(documents, samples[1]["until"], strict=True):
        assert row["resps"][0][0] == "".join(model.generate(document["context"], max_tokens=24, temperature=0, stop=[",", "."]))
