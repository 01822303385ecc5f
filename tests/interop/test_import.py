"""Hugging Face checkpoints in fathom: models that transformers initialised and saved, loaded as they are and converted; logits at
every position against transformers', and what is converted loaded back."""
import copy
import ctypes
import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config

from conftest import relative_error

VOCAB, LENGTH = 384, 160
SHAPE = dict(vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=LENGTH, initializer_range=0.2, bos_token_id=1, eos_token_id=2)
LLAMA3 = dict(rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
LINEAR = dict(rope_type="linear", rope_theta=10000.0, factor=4.0)
MODELS = {
    "llama": LlamaConfig(**SHAPE, tie_word_embeddings=False),
    "llama-tied": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama-heads": LlamaConfig(**{**SHAPE, "num_key_value_heads": 4}, head_dim=24),
    "llama-llama3": LlamaConfig(**SHAPE, head_dim=32, rope_parameters=LLAMA3),
    "llama-linear": LlamaConfig(**SHAPE, rope_parameters=LINEAR),
    "mistral": MistralConfig(**SHAPE, sliding_window=None, head_dim=32),
    "mistral-window": MistralConfig(**SHAPE, sliding_window=LENGTH),
    "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=False),
    "qwen2-tied": Qwen2Config(**SHAPE, tie_word_embeddings=True, rope_parameters=LLAMA3),
}
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def save(config, folder, dtype, **options):
    """A model with every parameter drawn at random: transformers starts biases at 0 and norms at 1."""
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1:
                p.add_(0.3 * torch.randn_like(p))
    model.to(dtype).save_pretrained(folder, **options)
    return AutoModelForCausalLM.from_pretrained(folder)  # read back: .to() has rounded RoPE's frequencies too


class Engine:
    """Logits by fathom.h."""

    def __init__(self):
        self.lib = ctypes.CDLL(os.environ["FATHOM_LIBRARY"])
        self.lib.fathom_session_logits.restype = ctypes.POINTER(ctypes.c_float)
        for name in ("fathom_session_logits", "fathom_session_free", "fathom_model_free"):
            getattr(self.lib, name).argtypes = [ctypes.c_void_p]

    def call(self, name, *arguments):
        error = ctypes.create_string_buffer(1024)
        assert getattr(self.lib, name)(*arguments, error) == 0, error.raw[4:].split(b"\0")[0].decode()

    def logits(self, folder, ids):
        model, session = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("fathom_model_load", str(folder).encode(), ctypes.c_int(1), ctypes.byref(model))
        self.call("fathom_session_new", model, ctypes.c_int64(0), ctypes.byref(session))
        rows = []
        for token in ids:
            self.call("fathom_session_append", session, ctypes.byref(ctypes.c_int32(token)), ctypes.c_size_t(1))
            rows.append(np.ctypeslib.as_array(self.lib.fathom_session_logits(session), (VOCAB,)).copy())
        self.lib.fathom_session_free(session)
        self.lib.fathom_model_free(model)
        return np.stack(rows)


@pytest.fixture(scope="module")
def engine():
    return Engine()


def ids():
    return torch.randint(0, VOCAB, (LENGTH,), generator=torch.Generator().manual_seed(3)).tolist()


def run(model):
    with torch.no_grad():
        return model(torch.tensor([ids()])).logits[0].float().numpy()


def theirs(folder, dtype=torch.float32):
    return run(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype))


def same_values(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name].float(), b[name].float()), name


def same_files(a, b):
    for name in ("model.safetensors", "config.json"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


@pytest.mark.parametrize("shards", [None, "40KB"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_import(name, dtype, shards, tmp_path, engine, fathom):
    source, once, twice = (tmp_path / n for n in "abc")
    model = save(MODELS[name], source, DTYPES[dtype], **({"max_shard_size": shards} if shards else {}))
    assert (source / "model.safetensors.index.json").exists() == bool(shards)
    made, again = fathom("convert", source, once), fathom("convert", once, twice)
    assert made["weights"] == again["weights"] == ("bf16" if dtype == "bf16" else "fp32")
    assert made["tokenizer"] is False
    same_files(once, twice)

    kept = (source / "config.json").read_text()
    if dtype == "f16":
        assert json.loads((once / "config.json").read_text()) == {**json.loads(kept), "dtype": "float32"}
    else:
        assert (once / "config.json").read_text() == kept
    back = AutoModelForCausalLM.from_pretrained(once)
    assert type(back) is type(model) and back.dtype == (torch.bfloat16 if dtype == "bf16" else torch.float32)
    same_values(model, back)

    # the same values in fp32, as fathom computes whatever the type they are stored in: what is left is the order of additions
    ours, exact = engine.logits(source, ids()), theirs(source)
    assert np.array_equal(ours, engine.logits(once, ids()))
    worst = max(relative_error(ours[i], exact[i]) for i in range(LENGTH))
    assert worst < 1e-4, worst


@pytest.mark.parametrize("name", ["llama-llama3", "mistral", "qwen2"])
def test_bf16_arithmetic(name, tmp_path, engine):
    """transformers computing in bf16: weights small enough that its rounding is not amplified."""
    config = copy.deepcopy(MODELS[name])
    config.initializer_range = 0.05
    save(config, tmp_path, torch.bfloat16)
    assert relative_error(engine.logits(tmp_path, ids()), theirs(tmp_path, torch.bfloat16)) < 1e-2


def test_older_spelling(tmp_path, engine, fathom):
    """rope_theta and rope_scaling at the root, `type`, torch_dtype: kept as they are."""
    source = tmp_path / "a"
    model = save(MODELS["llama-linear"], source, torch.float32)
    config = json.loads((source / "config.json").read_text())
    config.pop("rope_parameters")
    config["torch_dtype"] = config.pop("dtype")
    config.update(rope_theta=10000.0, rope_scaling={"type": "linear", "factor": 4.0}, eos_token_id=[2, 5])
    (source / "config.json").write_text(json.dumps(config))
    fathom("convert", source, tmp_path / "b")
    assert json.loads((tmp_path / "b" / "config.json").read_text()) == config
    same_values(model, AutoModelForCausalLM.from_pretrained(tmp_path / "b"))
    assert relative_error(engine.logits(tmp_path / "b", ids()), theirs(source)) < 1e-4


def test_quantized(tmp_path, engine, fathom):
    save(MODELS["qwen2"], tmp_path / "a", torch.bfloat16)
    assert fathom("convert", tmp_path / "a", tmp_path / "b", "--quantize", "q8")["weights"] == "q8"
    assert fathom("convert", tmp_path / "b", tmp_path / "c")["weights"] == "q8"
    same_files(tmp_path / "b", tmp_path / "c")
    stored = load_file(tmp_path / "b" / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a", dtype=torch.float32)
    before = model.state_dict()["lm_head.weight"].clone()
    model.load_state_dict({n: t * stored[n + "_scale"][:, None] if n + "_scale" in stored else t
                           for n, t in stored.items() if not n.endswith("_scale")})
    assert 1e-4 < relative_error(model.state_dict()["lm_head.weight"], before) < 0.01
    assert relative_error(engine.logits(tmp_path / "b", ids()), run(model)) < 1e-4


def test_other_files(tmp_path, text_file, fathom):
    """Copied byte for byte, also a tokenizer that fathom may not read."""
    source = tmp_path / "a"
    save(MODELS["llama"], source, torch.float32)
    (source / "tokenizer.json").write_bytes(text_file("gpt2-tokenizer.json").read_bytes())
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (source / name).write_text('{"a": "é"}\n')
    assert fathom("convert", source, tmp_path / "b")["tokenizer"] is True
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        assert (source / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_trained_on(tmp_path, fathom, engine):
    """A checkpoint is where training may begin, plain or with routers; a plain one still loads in transformers."""
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 200)
    save(MODELS["qwen2-tied"], tmp_path / "a", torch.bfloat16, max_shard_size="40KB")
    options = ("--data", text, "--init", tmp_path / "a", "--steps", 2, "--batch", 2, "--threads", 1)
    fathom("train", *options, "--out", tmp_path / "plain")
    assert relative_error(engine.logits(tmp_path / "plain", ids()), theirs(tmp_path / "plain")) < 1e-4
    fathom("train", *options, "--mod", "topk", "--out", tmp_path / "routed")
    config = json.loads((tmp_path / "routed" / "config.json").read_text())
    assert (config["model_type"], config["base_model_type"]) == ("fathom", "qwen2")
    fathom("eval", tmp_path / "routed", "--data", text)
    # its biases, its scaled RoPE and its routers, in transformers
    routed = AutoModelForCausalLM.from_pretrained(tmp_path / "routed", trust_remote_code=True)
    with torch.no_grad():
        found = routed(torch.tensor([ids()]), routing="causal").logits[0]
    assert relative_error(engine.logits(tmp_path / "routed", ids()), found) < 1e-4


def test_converted_to_routed(tmp_path, fathom, engine):
    """convert --mod: with every token through a gate of one the plain model's loss; a learned router starts near 1, and transformers runs it."""
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 400)
    source = tmp_path / "a"
    save(MODELS["llama-llama3"], source, torch.bfloat16)
    fathom("train", "--data", text, "--steps", 1, "--layers", 1, "--dim", 32, "--heads", 1, "--batch", 1, "--out", tmp_path / "bytes")
    (source / "tokenizer.json").write_bytes((tmp_path / "bytes" / "tokenizer.json").read_bytes())
    fathom("convert", source, tmp_path / "open", "--mod", "topk", "--mod-gate", "one", "--mod-capacity", "1")
    plain, opened = (fathom("eval", d, "--data", text, "--routing", "topk")["loss"] for d in (source, tmp_path / "open"))
    assert abs(opened / plain - 1) < 1e-5
    made = fathom("convert", source, tmp_path / "routed", "--mod", "topk", "--data", text)
    assert made["weights"] == "fp32" and abs(made["router_logit_mean"] - 1) < 0.2 and made["router_logit_deviation"] < 0.5
    routed = AutoModelForCausalLM.from_pretrained(tmp_path / "routed", trust_remote_code=True)
    with torch.no_grad():
        found = routed(torch.tensor([ids()]), routing="causal").logits[0]
    assert relative_error(engine.logits(tmp_path / "routed", ids()), found) < 1e-4
