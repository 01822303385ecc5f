# The tokenizer.json that we write, read by Hugging Face's own library.
. "$(dirname "$0")/../tap.sh"
seq 1 400 >"$work/text.txt"
"$fathom" train --data "$work/text.txt" --out "$work/run" --steps 1 --layers 1 --dim 32 --heads 1 --seq-len 16 --batch 2 >/dev/null 2>&1
if python3 -c 'import tokenizers' 2>/dev/null; then
    check "Hugging Face's tokenizers encode and decode by our tokenizer.json" python3 "$FATHOM_ROOT/tests/text/tokenizer_json.py" "$work/run/tokenizer.json"
else
    skip "Hugging Face's tokenizers" "python3 has no module tokenizers (pip install tokenizers)"
fi
finish
