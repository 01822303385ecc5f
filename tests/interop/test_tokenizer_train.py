"""A vocabulary learnt by `fathom tokenizer train`, in the tokenizers library: it loads, it loses nothing, and its merges are those that
BpeTrainer learns from the same text."""
import json
import random

import pytest

pytest.importorskip("tokenizers")
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

VOCAB = 8192
SPECIAL = "<|endoftext|>"


def their_pre_tokenizer(pattern, file):
    if pattern == "gpt2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    regex = file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(regex), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def pairs(merges):
    return [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in merges]


def their_merges(pattern, file, texts, vocab, least):
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = their_pre_tokenizer(pattern, file)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, min_frequency=least, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    theirs.train_from_iterator(texts, trainer)
    return pairs(json.loads(theirs.to_str())["model"]["merges"])


def read(path):
    return path.read_bytes().decode()


def random_text(rng):
    ranges = [(0x00, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF)]
    return "".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(1, 60)))


@pytest.mark.parametrize("pattern", ["gpt2", "llama3"])
def test_merges_are_those_of_bpe_trainer(fathom, text_file, tmp_path, pattern):
    source, out = text_file("tinyshakespeare.txt"), tmp_path / "tokenizer.json"
    said = fathom("tokenizer", "train", "--vocab", VOCAB, "--data", source, "--out", out, "--pattern", pattern)
    file = json.loads(out.read_text())
    ours = pairs(file["model"]["merges"])
    assert said["vocab"] == VOCAB and len(ours) == VOCAB - 257
    assert ours == their_merges(pattern, file, [read(source)], VOCAB - 1, 2)

    tokenizer = Tokenizer.from_file(str(out))
    text = read(source)
    ids = tokenizer.encode(text).ids
    assert len(ids) == said["tokens"]
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert tokenizer.get_vocab_size() == VOCAB
    assert tokenizer.token_to_id(SPECIAL) == VOCAB - 1
    assert tokenizer.encode(f"a{SPECIAL}b").ids == [ord("a"), VOCAB - 1, ord("b")]
    rng = random.Random(1)
    for other in ["", " ", "It's\r\n\n \tnaïve  数学 👩‍🚀", "".join(map(chr, range(256)))] + [random_text(rng) for _ in range(200)]:
        assert tokenizer.decode(tokenizer.encode(other).ids, skip_special_tokens=False) == other


@pytest.mark.parametrize("pattern", ["gpt2", "llama3"])
@pytest.mark.parametrize("least", [1, 2, 5])
def test_small_texts_down_to_the_last_pair(fathom, tmp_path, pattern, least):
    """Nothing but ties at the end, and long runs; several files, each a text of its own."""
    rng = random.Random(least)
    texts = ["".join(rng.choices("aab é\n!1'數", k=400)) for _ in range(3)]
    paths = [tmp_path / f"{i}.txt" for i in range(3)]
    for path, text in zip(paths, texts):
        path.write_bytes(text.encode())
    out = tmp_path / "tokenizer.json"
    said = fathom("tokenizer", "train", "--vocab", 5000, "--min-count", least, "--data", *paths, "--out", out, "--pattern", pattern)
    file = json.loads(out.read_text())
    assert said["vocab"] < 5000
    assert pairs(file["model"]["merges"]) == their_merges(pattern, file, texts, 5000, least)
