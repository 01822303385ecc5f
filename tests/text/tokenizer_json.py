"""Holds a byte tokenizer's tokenizer.json against the Hugging Face library: encode gives UTF-8, decode the text.

usage: tokenizer_json.py PATH    (exit status 77 where the tokenizers module is missing)
"""
import random
import sys

try:
    from tokenizers import Tokenizer
except ImportError:
    print("the tokenizers module is missing", file=sys.stderr)
    sys.exit(77)


def random_text(rng):
    ranges = [(0x00, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF)]
    return "".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(1, 60)))


def main():
    tokenizer = Tokenizer.from_file(sys.argv[1])
    rng = random.Random(1)
    texts = ["", " ", "  two  spaces ", "The cat's hat, isn't it?\n\n\tYes.\r\n", "a\0b", "naïve café", "数学", "👩‍🚀🇩🇪",
             "Ġ Ċ ġ", "<|endoftext|>", "".join(map(chr, range(256)))]
    texts += [random_text(rng) for _ in range(200)]
    for text in texts:
        ids = tokenizer.encode(text).ids
        assert ids == list(text.encode()), (text, ids)
        assert tokenizer.decode(ids, skip_special_tokens=False) == text, text
    assert tokenizer.get_vocab_size() == 256, tokenizer.get_vocab_size()
    print(f"{len(texts)} texts agree")


if __name__ == "__main__":
    main()
