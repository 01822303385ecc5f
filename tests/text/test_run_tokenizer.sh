# A run with a tokenizer.json of its own: it is copied, everything reads it, and it cannot be exchanged.
. "$(dirname "$0")/../tap.sh"
awk 'BEGIN { for (i = 0; i < 400; i++) print "the line " i " and the other" }' >"$work/text.txt"
shape="--layers 2 --mod topk --dim 32 --heads 1 --seq-len 32 --batch 2 --threads 1"
"$fathom" train --data "$work/text.txt" --out "$work/bytes" --steps 2 $shape >/dev/null 2>&1
special='{"SpecialToken": {"id": "s", "type_id": 0}}'
template='{"type": "TemplateProcessing", "single": ['$special', {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"s": {"id": "s", "ids": [256], "tokens": ["<s>"]}}}'
added='{"id": 256, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}'
mkdir "$work/tok"
sed -e 's/"merges": \[\]/"merges": ["t h", "th e"]/' -e 's/^\( *\)"ÿ": 255/&, "th": 257, "the": 258/' -e "s/\"post_processor\": null/\"post_processor\": $template/" \
    -e "s/\"added_tokens\": \[\]/\"added_tokens\": [$added]/" "$work/bytes/tokenizer.json" >"$work/tok/tokenizer.json"

check "train --tokenizer" "$fathom" train --data "$work/text.txt" --tokenizer "$work/tok" --out "$work/run" --steps 2 $shape
check "the run keeps the file as it was" cmp "$work/tok/tokenizer.json" "$work/run/tokenizer.json"
check "the vocabulary is the tokenizer's" grep -q '"vocab_size": 259' "$work/run/config.json"
check "inspect reads it, special token first" sh -c "'$fathom' inspect '$work/run' --text 'the <s>' --json | grep -q '\"tokens\": \[256, 258, 32, 256\]'"
"$fathom" eval "$work/run" --data "$work/text.txt" --json >"$work/eval.json" 2>/dev/null
check "bits per byte count the text's bytes" awk -v loss="$(field "$work/eval.json" loss)" -v bits="$(field "$work/eval.json" bits_per_byte)" \
    -v tokens="$(field "$work/eval.json" tokens)" -v bytes="$(wc -c <"$work/text.txt")" \
    'BEGIN { d = bits - loss / log(2) * (tokens + 1) / bytes; exit !(bits > 0 && d < 1e-6 && d > -1e-6) }'
check "tokens are fewer than bytes" test "$(field "$work/eval.json" tokens)" -lt "$(($(wc -c <"$work/text.txt") - 1000))"
check "generate, from no text but the special token" "$fathom" generate "$work/run" --prompt "" --max-tokens 5
check "convert copies it" "$fathom" convert "$work/run" "$work/small" --quantize q8
check "converted: the same file" cmp "$work/tok/tokenizer.json" "$work/small/tokenizer.json"
check "--init takes the model's tokenizer" "$fathom" train --data "$work/text.txt" --init "$work/run" --out "$work/next" --steps 2 --batch 2
check "--init: the same file" cmp "$work/tok/tokenizer.json" "$work/next/tokenizer.json"
check "resume needs no --tokenizer" "$fathom" train --data "$work/text.txt" --out "$work/run" --resume
check "resume with the same tokenizer" "$fathom" train --data "$work/text.txt" --tokenizer "$work/tok/tokenizer.json" --out "$work/run" --resume
refuses "resume with another tokenizer" 2 "--tokenizer: $work/bytes: is not the one" "$fathom" train --data "$work/text.txt" --tokenizer "$work/bytes" --out "$work/run" --resume
refuses "--init with another tokenizer" 2 "--tokenizer: $work/bytes: is not the one" "$fathom" train --data "$work/text.txt" --tokenizer "$work/bytes" --init "$work/run" --out "$work/new" --steps 2
refuses "--tokenizer that is not there" 1 "$work/none" "$fathom" train --data "$work/text.txt" --tokenizer "$work/none" --out "$work/new" --steps 2
refuses "--vocab below the tokenizer's" 2 "--vocab: 256" "$fathom" train --data "$work/text.txt" --tokenizer "$work/tok" --out "$work/new" --steps 2 --vocab 256
sed -i 's/"the": 258/&, "x y": 300/' "$work/run/tokenizer.json"
refuses "resume with a tokenizer that outgrew the model" 2 "vocab_size: 259: its tokenizer has 301" "$fathom" train --data "$work/text.txt" --out "$work/run" --resume
refuses "generate with it" 1 "vocabulary of 301" "$fathom" generate "$work/run" --prompt a --max-tokens 4
check "refused runs leave no model" test ! -e "$work/new"
finish
