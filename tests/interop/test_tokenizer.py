"""Our tokenizer against Hugging Face's library, by the C API: the same ids for the same text, the same text for the same ids."""
import ctypes
import functools
import json
import os
import random
import unicodedata

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
TEXTS = ["kjv.txt", "tinyshakespeare.txt", "wikitext2-test.txt", "wikitext2-valid.txt", "README.md"]


class Error(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int), ("message", ctypes.c_char * 512)]


@pytest.fixture(scope="session")
def library():
    pointer, size = ctypes.POINTER, ctypes.c_size_t
    lib = ctypes.CDLL(os.environ["FATHOM_LIBRARY"])
    lib.fathom_tokenizer_load.argtypes = [ctypes.c_char_p, pointer(ctypes.c_void_p), pointer(Error)]
    lib.fathom_tokenizer_free.argtypes = [ctypes.c_void_p]
    lib.fathom_tokenizer_vocab.argtypes = [ctypes.c_void_p]
    lib.fathom_tokenizer_vocab.restype = ctypes.c_int64
    lib.fathom_tokenizer_encode.argtypes = [ctypes.c_void_p, ctypes.c_char_p, size, ctypes.c_int, pointer(ctypes.c_int32), size, pointer(size),
                                            pointer(Error)]
    lib.fathom_tokenizer_text.argtypes = [ctypes.c_void_p, ctypes.c_int32, pointer(size)]
    lib.fathom_tokenizer_text.restype = ctypes.c_void_p
    return lib


class Ours:
    def __init__(self, library, path):
        self.library, self.handle, error = library, ctypes.c_void_p(), Error()
        assert library.fathom_tokenizer_load(os.fsencode(path), self.handle, error) == 0, error.message.decode()

    def __del__(self):
        self.library.fathom_tokenizer_free(self.handle)

    def encode(self, text, special=True):
        data = text if isinstance(text, bytes) else text.encode()
        count, error, room = ctypes.c_size_t(), Error(), 4 * len(data) + 64
        ids = (ctypes.c_int32 * room)()
        status = self.library.fathom_tokenizer_encode(self.handle, data, len(data), special, ids, room, count, error)
        assert status == 0, error.message.decode()
        return ids[: count.value]

    def decode(self, ids):
        size, out = ctypes.c_size_t(), []
        for i in ids:
            text = self.library.fathom_tokenizer_text(self.handle, i, size)
            assert text is not None
            out.append(ctypes.string_at(text, size.value))
        return b"".join(out)


@functools.lru_cache
def known_characters():
    """Those of Unicode 14, PCRE2's version, less those combining ones that their NFC, of Unicode 9, does not put in order."""
    ordered = lambda c: normalizers.NFC().normalize_str("\u0327" + c + "\u0334") == unicodedata.normalize("NFC", "\u0327" + c + "\u0334")
    apart = lambda c: normalizers.NFC().normalize_str(c + "\u0334") == unicodedata.normalize("NFC", c + "\u0334")
    assigned = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) not in ("Cn", "Co", "Cs")]
    return [c for c in assigned if not unicodedata.combining(c) or (ordered(c) and apart(c))]


def random_texts(count, seed, words=()):
    """Strings of what tokenizers stumble over."""
    rng = random.Random(seed)
    known = known_characters()
    pieces = [
        lambda: rng.choice(["the", "cat", "Don't", "I'LL", "we've", "naïve", "Ω", "straße", "ﬁn", "e\u0301", "A\u030a", "İ", "ſ'S", "'ſ"]),
        lambda: " " * rng.choice([1, 1, 1, 2, 3, 40]),
        lambda: rng.choice(["\n", "\r\n", "\n\n", "\t", "\r", "\n" * 30, " \n ", "\u00a0", "\u2003", "\u3000", "\u0085", "\u180e", "\u200b", "\x0b"]),
        lambda: str(rng.randrange(10 ** rng.randrange(1, 12))),
        lambda: "".join(chr(rng.randrange(0x4E00, 0x9FFF)) for _ in range(rng.randrange(1, 6))),
        lambda: rng.choice(["👩‍🚀", "🇩🇪", "👍🏽", "☕️", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "한국어", "\u1112\u1161\u11ab", "हिन्दी", "עִבְרִית", "العربية", "ไทย", "½²Ⅷ٣"]),
        lambda: "".join(chr(rng.randrange(0, 0x20)) for _ in range(3)),
        lambda: "a" + "".join(chr(rng.randrange(0x300, 0x36F)) for _ in range(rng.randrange(1, 5))),
        lambda: rng.choice("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") * rng.choice([1, 1, 3, 50]),
        lambda: "".join(rng.choice(known) for _ in range(rng.randrange(1, 5))),
        lambda: chr(rng.randrange(0xD800, 0xE000)).encode("utf-8", "surrogatepass").decode("utf-8", "replace"),
        lambda: rng.choice("aZé漢") * rng.choice([1, 2, 31, 32, 33, 200]),
    ]
    pieces += [lambda: rng.choice(words)] * (4 if words else 0)
    return ["".join(rng.choice(pieces)() for _ in range(rng.randrange(1, 16))) for _ in range(count)]


def trained(texts, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=3000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def llama3():
    tokenizer = trained(random_texts(2000, 11), ignore_merges=True)
    split = pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    bos = tokenizer.token_to_id("<|begin_of_text|>")
    template = processors.TemplateProcessing(single="<|begin_of_text|> $A", pair="$A $B", special_tokens=[("<|begin_of_text|>", bos)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer, ["<|begin_of_text|>", "<|eot_id|>", "<|eot_id", "|>"]


def qwen2():
    tokenizer = trained(random_texts(2000, 12))
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN2), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("e\u0302\u0301toile", normalized=True), AddedToken("<tool>", normalized=False)])
    return tokenizer, ["<|im_start|>", "<|im_end|>", "e\u0302\u0301toile", "\u1ebftoile", "<tool>", "e\u0301", "\u0301"]


def flagged():
    """Every flag of added tokens, tokens that begin alike, a space in front, every behavior of Split."""
    tokenizer = trained(random_texts(2000, 13))
    steps = [pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"), pre_tokenizers.Split("-", "merged_with_previous"),
             pre_tokenizers.Split(Regex("[!?]"), "contiguous"), pre_tokenizers.Split("@", "merged_with_next"),
             pre_tokenizers.Split(Regex("[^~]+"), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC()])
    flags = [dict(single_word=a, lstrip=b, rstrip=c, normalized=d) for a in (0, 1) for b in (0, 1) for c in (0, 1) for d in (0, 1)]
    tokenizer.add_tokens([AddedToken(f"<{i}>", **{k: bool(v) for k, v in f.items()}) for i, f in enumerate(flags)])
    tokenizer.add_tokens([AddedToken("word", single_word=True), AddedToken("wordy"), AddedToken("y x"), AddedToken("  "), AddedToken("\n\n\n")])
    words = [f"{a}<{i}>{b}" for i in range(len(flags)) for a in ("", " ", "  ", "\u3000", "x", "é") for b in ("", " ", "\n ", "\u00a0", "_", "\u0301")]
    return tokenizer, words + ["word", "wordy", "words", " word ", "wordy x", "y x", "  ", "~", "@", "-", "é"]


MADE = {"llama3": llama3, "qwen2": qwen2, "flagged": flagged}


@pytest.fixture(scope="module", params=["gpt2", *MADE])
def pair(request, library, text_file, tmp_path_factory):
    """(theirs, ours, texts that mean something to it)"""
    if request.param == "gpt2":
        path, words = text_file("gpt2-tokenizer.json"), ["<|endoftext|>", "<|endoftext|", "endoftext|>"]
    else:
        tokenizer, words = MADE[request.param]()
        path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
        tokenizer.save(str(path))
    return Tokenizer.from_file(str(path)), Ours(library, path), words


def test_random_strings(pair):
    theirs, ours, words = pair
    for text in random_texts(10000, 1, words):
        for special in (True, False):
            expected = theirs.encode(text, add_special_tokens=special).ids
            assert ours.encode(text, special) == expected, repr(text)
        assert ours.decode(expected).decode("utf-8", "replace") == theirs.decode(expected, skip_special_tokens=False), repr(text)


@pytest.mark.parametrize("name", TEXTS)
def test_texts(library, text_file, name):
    path, text = text_file("gpt2-tokenizer.json"), text_file(name).read_bytes().decode()
    assert Ours(library, path).encode(text) == Tokenizer.from_file(str(path)).encode(text).ids


def test_a_text(pair, text_file):
    theirs, ours, _ = pair
    text = text_file("wikitext2-valid.txt").read_bytes().decode()
    assert ours.encode(text) == theirs.encode(text).ids


@pytest.mark.parametrize("text", ["a" * 100000, " " * 100000, "\n" * 100000, "ab \n" * 25000, " " * 100000 + "x"])
def test_long_runs(pair, text):
    theirs, ours, _ = pair
    assert ours.encode(text) == theirs.encode(text).ids


def test_any_bytes_come_back(library, text_file, tmp_path):
    made = tmp_path / "tokenizer.json"
    llama3()[0].save(str(made))
    rng = random.Random(5)
    for path in (text_file("gpt2-tokenizer.json"), made):
        ours = Ours(library, path)
        for text in random_texts(2000, 6, ["<|eot_id|>", "<|endoftext|>"]):
            holed = bytearray(text.encode())
            for _ in range(3):
                holed[rng.randrange(len(holed))] = rng.randrange(256)
            for data in (bytes(holed), rng.randbytes(rng.randrange(200))):
                assert ours.decode(ours.encode(data, False)) == data


def test_vocabulary(pair):
    theirs, ours, _ = pair
    assert ours.library.fathom_tokenizer_vocab(ours.handle) == max(theirs.get_vocab().values()) + 1


def test_word_characters_around_added_tokens(library, tmp_path):
    """single_word against every character up to U+20000: which ones are part of a word."""
    tokenizer = trained(["some text"])
    tokenizer.add_tokens([AddedToken("<x>", single_word=True)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ours = Ours(library, tmp_path)
    different = []
    for begin in range(0, 0x20000, 4096):
        characters = [chr(c) for c in range(begin, begin + 4096) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
        text = "".join(f"<x>{c}\n{c}<x>\n" for c in characters)
        if ours.encode(text) != tokenizer.encode(text).ids:
            different += [hex(ord(c)) for c in characters if ours.encode("<x>" + c) != tokenizer.encode("<x>" + c).ids]
    assert different == []


# Where PCRE2 by itself differs, or might.
PATTERNS = [r"\p{Han}+", r"[\p{Han}x]", r"\P{Greek}", r"\p{^Latin}", r"\p{Cyrillic}", r"\p{Arabic}", r"\p{Hiragana}", r"\p{Katakana}", r"\p{Hangul}",
            r"\p{Devanagari}", r"\p{Thai}", r"\p{Common}+", r"\p{Inherited}", r"[^\s\p{Han}\p{L}]", r"\p{Lo}",
            r"a{2}", r"\p{L}{1,2}?", r"\p{L}{2,2}?", r"[a{2}?]+", r"a{1 }+", r"{x}?a{|}", r"\p{N}{2,}?a",
            r"\w", r"\W", r"\w+", r"[\w]", r"[^\w]", r"[\w\s]+", r"[^\w\s]+", r"\s*\w+(?!\W)",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"(?i:s)(?i:s)", r"(?i:s|t)ss", r"(?i:s?t|s.t)", r"(?i:[s]t)", r"(?i:[a-z])", r"(?i:[^s])", r"(?i:[à-ö])",
            r"(?i:é)", r"(?i:ω)", r"(?i:[ſ'’]k)", r"(?i:i)", r"(?i:[^i])",
            r"(?i:\p{Lu})", r"(?i:\P{Ll})", r"(?i:\w)", r"(?i:[^\s\d])", r"(?i:[a\s\d]+)"]
REFUSED = [r"a{2}?", r"\p{N}{3}?", r"a{2}+", r"a{1,2}+", r"a{,2}", r"(?i:ss)", r"(?i:st)", r"(?i:s(?:s))", r"(?i:ß)", r"(?i:[ß])", r"(?i:\u017f\x73)",
           r"(?i:[\p{Lu}])", r"(?i:[^\s\p{L}])", r"(?i:[\w])", r"(?i:[\S])"]


def split_by(pattern, folder):
    """A tokenizer that drops what the pattern matches, saved in the folder."""
    tokenizer = trained(["some text"])
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(library, tmp_path, pattern):
    """A Split by each, on every character by itself and on what tokenizers stumble over."""
    tokenizer = split_by(pattern, tmp_path)
    ours = Ours(library, tmp_path)
    for text in ["\n".join(known_characters()), *random_texts(500, 21)]:
        assert ours.encode(text) == tokenizer.encode(text).ids


@pytest.mark.parametrize("pattern", REFUSED)
def test_other_patterns_are_refused(library, tmp_path, pattern):
    split_by(pattern, tmp_path)
    with pytest.raises(AssertionError, match="not supported in a pattern"):
        Ours(library, tmp_path)


def test_the_byte_tokenizer_is_read_by_theirs(fathom, library, tmp_path):
    (tmp_path / "text.txt").write_text("".join(f"{i}\n" for i in range(400)))
    fathom("train", "--data", tmp_path / "text.txt", "--out", tmp_path / "run", "--steps", 1, "--layers", 1, "--dim", 32, "--heads", 1,
           "--seq-len", 16, "--batch", 2)
    theirs, ours = Tokenizer.from_file(str(tmp_path / "run/tokenizer.json")), Ours(library, tmp_path / "run")
    for text in ["", *random_texts(500, 2)]:
        ids = list(text.encode())
        assert theirs.encode(text).ids == ids == ours.encode(text)
        assert theirs.decode(ids, skip_special_tokens=False) == text
    assert theirs.get_vocab_size() == 256


def test_the_run_keeps_the_file(fathom, text_file, library, tmp_path):
    given = text_file("gpt2-tokenizer.json")
    run = tmp_path / "run"
    fathom("train", "--data", text_file("README.md"), "--tokenizer", given, "--out", run, "--steps", 1, "--layers", 1, "--dim", 32, "--heads", 1,
           "--seq-len", 16, "--batch", 2)
    assert (run / "tokenizer.json").read_bytes() == given.read_bytes()
    assert json.loads((run / "config.json").read_text())["vocab_size"] == 50257
    e = fathom("eval", run, "--data", text_file("README.md"), "--seq-len", 16)
    data = text_file("README.md").read_bytes()
    tokens = len(Tokenizer.from_file(str(given)).encode(data.decode()).ids)
    assert e["bits_per_byte"] == pytest.approx(e["loss"] / 0.6931471805599453 * tokens / len(data), rel=1e-6)
