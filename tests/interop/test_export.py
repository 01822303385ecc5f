"""What fathom trains, read by transformers: a plain model as LlamaForCausalLM, a routed one by the Python files that lie beside its weights.
Logits, losses, gradients and generated text are held against the engine's."""
import ctypes
import json
import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
import torch
from conftest import BUILD, relative_error
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

ROOT = pathlib.Path(os.environ["FATHOM_ROOT"])
NEAR = 1e-4
T = 128
PLAIN = {"plain": [], "untied": ["--untied"]}
QUARTER = ["--mod-capacity", "0.25"]
ROUTED = {
    "raw": ["--mod", "topk", *QUARTER],
    "sigmoid-aux": ["--mod", "topk", *QUARTER, "--mod-gate", "sigmoid", "--mod-causal", "aux"],
    "one": ["--mod", "topk", *QUARTER, "--mod-gate", "one", "--untied"],
    "stochastic": ["--mod", "stochastic", *QUARTER],
    "token-choice": ["--mod", "token-choice", *QUARTER],
    "attn+mlp": ["--mod", "topk", *QUARTER, "--mod-unit", "attn+mlp"],
    "dense-kv": ["--mod", "topk", *QUARTER, "--mod-route-kv", "no"],
    "experts": ["--experts", 4, "--experts-per-token", 2],
    "expert-choice": ["--mod", "topk", *QUARTER, "--experts", 3, "--experts-per-token", 1, "--expert-router", "expert-choice"],
    "integrated": ["--mod", "token-choice", *QUARTER, "--mode", "integrated", "--experts", 3, "--experts-per-token", 1],
}
ALL = {**PLAIN, **ROUTED}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Training text, and held-out text of 8 whole windows."""
    folder = tmp_path_factory.mktemp("texts")
    rows = "".join(f"row {i}: {i * i % 97} and {i * 7 % 13}\n" for i in range(4000))
    (folder / "train.txt").write_text(rows[:60000])
    (folder / "held.txt").write_text(rows[60000:60001 + 8 * T])
    return folder


@pytest.fixture(scope="module")
def runs(fathom, texts, tmp_path_factory):
    """The run directory of a kind, trained once."""
    made = {}

    def run(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("runs") / kind
            fathom("train", "--data", texts / "train.txt", "--out", made[kind], "--steps", 30, "--layers", 4, "--dim", 64, "--heads", 4,
                   "--kv-heads", 2, "--ffn", 96, "--seq-len", T, "--batch", 4, "--lr", "3e-3", "--eval-tokens", 256, "--threads", 1,
                   *ALL[kind])
        return made[kind]

    return run


@pytest.fixture(scope="module")
def models(runs):
    made = {}

    def model(kind):
        if kind not in made:
            made[kind] = AutoModelForCausalLM.from_pretrained(runs(kind), trust_remote_code=kind not in PLAIN)
        assert type(made[kind]).__name__ == ("LlamaForCausalLM" if kind in PLAIN else "FathomForCausalLM")
        return made[kind].eval()

    return model


class Error(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int), ("message", ctypes.c_char * 512)]


def session_logits(directory, tokens):
    """The engine's logits after each token, appended one by one."""
    lib = ctypes.CDLL(os.environ["FATHOM_LIBRARY"])
    lib.fathom_session_logits.restype = ctypes.POINTER(ctypes.c_float)
    model, session, err = ctypes.c_void_p(), ctypes.c_void_p(), Error()

    def call(function, *arguments):
        assert function(*arguments, ctypes.byref(err)) == 0, err.message.decode()

    call(lib.fathom_model_load, str(directory).encode(), ctypes.c_int(1), ctypes.byref(model))
    call(lib.fathom_session_new, model, ctypes.c_int64(0), ctypes.byref(session))
    out = []
    for token in tokens:
        call(lib.fathom_session_append, session, (ctypes.c_int32 * 1)(token), ctypes.c_size_t(1))
        out.append(np.ctypeslib.as_array(lib.fathom_session_logits(session), (256,)).copy())
    lib.fathom_session_free(session)
    lib.fathom_model_free(model)
    return np.stack(out)


def windows(texts):
    held = torch.tensor(list((texts / "held.txt").read_bytes()))
    return held[:-1].view(8, T), held[1:].view(8, T)


@pytest.mark.parametrize("kind", ALL)
def test_causal_logits(kind, runs, models, texts):
    tokens = windows(texts)[0][:1]
    engine = session_logits(runs(kind), tokens[0].tolist())
    with torch.no_grad():
        whole = models(kind)(tokens, use_cache=False).logits[0]
        first = models(kind)(tokens[:, :50], use_cache=True)
        rest = models(kind)(tokens[:, 50:], cache=first.cache)
    assert relative_error(whole, engine) < NEAR
    assert relative_error(torch.cat([first.logits[0], rest.logits[0]]), engine) < NEAR


@pytest.mark.parametrize("kind", ALL)
def test_loss(kind, fathom, runs, models, texts):
    model, (tokens, targets) = models(kind), windows(texts)
    for routing in ["topk", "causal"] if kind in ROUTED else ["causal"]:
        if (kind, routing) == ("stochastic", "causal"):
            continue  # a text's noise is that of its rows in the engine; test_causal_logits has this routing
        engine = fathom("eval", runs(kind), "--data", texts / "held.txt", "--routing", routing, "--batch", 4)["loss"]
        with torch.no_grad():
            if kind in PLAIN:
                loss = torch.nn.functional.cross_entropy(model(tokens).logits.flatten(0, 1), targets.flatten()).item()
            else:
                rows = 8 if kind == "stochastic" else 4  # whose noise is that of the row in the whole text
                parts = [model(tokens[i:i + rows], shift_labels=targets[i:i + rows], routing=routing) for i in range(0, 8, rows)]
                loss = sum(part.lm_loss.item() for part in parts) / len(parts)
                assert routing == "topk" or all(part.loss == part.lm_loss for part in parts)
        assert abs(loss - engine) < NEAR * engine


@pytest.mark.parametrize("kind", ["raw", "sigmoid-aux", "raw-aux", "one", "stochastic", "token-choice", "token-choice-sigmoid", "attn",
                                  "mlp", "attn+mlp", "dense-kv", "dense-kv-attn+mlp", "moe-tokens", "moe-experts", "mode-staged",
                                  "mode-integrated", "mode-integrated-choice"])
def test_gradients(kind, tmp_path):
    subprocess.run([BUILD / "tests" / "tool_case", tmp_path / "case", kind, "1"], check=True)
    case = tmp_path / "case"
    for file in (ROOT / "python" / "fathom_hf").glob("*.py"):
        shutil.copy(file, case)
    batch, losses = (json.loads((case / name).read_text()) for name in ("batch.json", "losses.json"))
    tokens, targets = torch.tensor(batch["inputs"]), torch.tensor(batch["targets"])
    model = AutoModelForCausalLM.from_pretrained(case, trust_remote_code=True).train()
    out = model(tokens, shift_labels=targets.masked_fill(targets < 0, -100))
    assert abs(out.lm_loss.item() - losses["loss"]) < NEAR * losses["loss"]
    assert abs(out.aux_loss.item() - losses["aux_loss"]) < NEAR * max(losses["aux_loss"], 1)
    out.loss.backward()
    engine = load_file(case / "gradients.safetensors")
    ours = dict(model.named_parameters())
    assert set(ours) == set(engine)
    for name, gradient in engine.items():
        if ours[name].grad is None:
            assert not gradient.any(), name
        else:
            assert np.abs(ours[name].grad.numpy() - gradient).max() <= NEAR * max(np.abs(gradient).max(), 1e-6), name


def test_labels_are_shifted(models, texts):
    tokens, targets = windows(texts)
    model = models("raw").train()
    expected = model(tokens, shift_labels=torch.cat([targets[:, :-1], torch.full((8, 1), -100)], 1))
    out = model(tokens, labels=tokens)
    model.eval()
    assert out.loss == expected.loss and out.loss != out.lm_loss


@pytest.mark.parametrize("kind", ALL)
def test_greedy_text(kind, fathom, runs, models):
    prompt = "row 3999: "
    engine = fathom("generate", runs(kind), "--prompt", prompt, "--max-tokens", 100, "--temperature", 0)["text"]
    ids = torch.tensor([list(prompt.encode())])
    out = models(kind).generate(ids, do_sample=False, max_new_tokens=100)[0, ids.shape[1]:]
    assert len(out) == 100
    assert bytes(out.tolist()).decode(errors="replace") == engine


@pytest.mark.parametrize("kind", ["raw", "dense-kv"])
def test_a_batch_is_its_sequences(kind, models):
    """Prompts of different lengths, padded before; beams, whose caches are reordered."""
    prompts = [b"row 3999: ", b"row 12"]
    model = models(kind)
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    for options in ({}, {"num_beams": 3}):
        options = dict(options, do_sample=False, max_new_tokens=30, pad_token_id=0)
        together = model.generate(ids, attention_mask=mask, **options)[:, width:]
        for p, row in zip(prompts, together):
            alone = model.generate(torch.tensor([list(p)]), **options)[0, len(p):]
            assert row.tolist() == alone.tolist()


@pytest.mark.parametrize("kind", ALL)
def test_saved_by_transformers(kind, fathom, runs, models, texts, tmp_path):
    models(kind).save_pretrained(tmp_path / "saved")
    shutil.copy(runs(kind) / "tokenizer.json", tmp_path / "saved")
    before, after = (load_file(folder / "model.safetensors") for folder in (runs(kind), tmp_path / "saved"))
    assert set(before) == set(after)
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    arguments = "--data", texts / "held.txt", "--threads", 1
    assert fathom("eval", tmp_path / "saved", *arguments) == fathom("eval", runs(kind), *arguments)
    if kind in ROUTED:
        AutoModelForCausalLM.from_pretrained(tmp_path / "saved", trust_remote_code=True)


def test_tokenizer(runs):
    for kind, read in ("plain", AutoTokenizer), ("raw", PreTrainedTokenizerFast):
        tokenizer = read.from_pretrained(runs(kind))
        text = " two  spaces, naïve 数学 👩‍🚀\n"
        assert tokenizer(text)["input_ids"] == list(text.encode())
        assert tokenizer.decode(list(text.encode())) == text


def test_routing_is_explicit(models, texts):
    model, tokens = models("raw"), windows(texts)[0]
    causal, topk = model(tokens, routing="causal").logits, model(tokens, routing="topk").logits
    assert not torch.equal(causal, topk)
    assert torch.equal(model(tokens).logits, causal)
    assert torch.equal(model.train()(tokens).logits, topk)
    text = model.generate(tokens[:1, :8], do_sample=False, max_new_tokens=20)
    model.eval()
    assert torch.equal(model.generate(tokens[:1, :8], do_sample=False, max_new_tokens=20), text)
    model.config.routing = "topk"
    assert torch.equal(model(tokens).logits, topk)
    model.config.routing = None
    for call, word in [(lambda: model(tokens, routing="topk", use_cache=True), "cache"), (lambda: model(tokens, routing="both"), "both"),
                       (lambda: model.generate(tokens[:1, :8], routing="topk", max_new_tokens=2), "causal"),
                       (lambda: model(torch.zeros(1, T + 1, dtype=torch.long)), str(T))]:
        with pytest.raises(ValueError, match=word):
            call()


def test_q8_is_refused(fathom, runs, tmp_path):
    """transformers itself only warns of a quantisation that it does not know."""
    fathom("convert", runs("raw"), tmp_path / "q8", "--quantize", "q8")
    with pytest.raises(NotImplementedError, match="fathom-q8"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "q8", trust_remote_code=True)


def test_bf16(fathom, runs, models, texts, tmp_path):
    """Weights in bfloat16 compute in it by default, near the float32 model."""
    fathom("convert", runs("raw"), tmp_path / "half", "--quantize", "bf16")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "half", trust_remote_code=True)
    assert model.dtype == torch.bfloat16
    wide = AutoModelForCausalLM.from_pretrained(tmp_path / "half", trust_remote_code=True, dtype=torch.float32)
    tokens = windows(texts)[0][:1]
    assert relative_error(wide(tokens).logits[0].detach(), session_logits(tmp_path / "half", tokens[0].tolist())) < NEAR
    assert torch.isfinite(model(tokens, labels=tokens, routing="topk").loss)
