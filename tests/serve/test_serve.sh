# fathom serve on a free port, asked by Python's own HTTP client: shapes, limits, refusals, clients that vanish, shutdown under load.
. "$(dirname "$0")/../tap.sh"

awk 'BEGIN { for (i = 0; i < 600; i++) print "line " i " of a text that says little, " i * 7 % 13 " times" }' >"$work/text.txt"
"$fathom" train --data "$work/text.txt" --out "$work/run" --steps 1 --layers 4 --dim 256 --heads 4 --ffn 512 --seq-len 4096 --batch 1 \
    --val-fraction 0 --mod topk --mod-capacity 0.25 --threads 1 >"$work/train.out" 2>&1
check "a model to serve" test $? -eq 0
one() { echo "{\"SpecialToken\": {\"id\": \"$1\", \"type_id\": 0}}"; }
listed() { echo "\"$1\": {\"id\": \"$1\", \"ids\": [$2], \"tokens\": [\"$1\"]}"; }
added() { echo "{\"id\": $2, \"content\": \"$1\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": true}"; }
single="[$(one '<s>'), {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, $(one '<\/s>')]"
template="{\"type\": \"TemplateProcessing\", \"single\": $single, \"pair\": [], \"special_tokens\": {$(listed '<s>' 256), $(listed '<\/s>' 257)}}"
mkdir "$work/around"
sed -e "s/\"post_processor\": null/\"post_processor\": $template/" -e "s/\"normalizer\": null/\"normalizer\": {\"type\": \"NFC\"}/" \
    -e "s/\"added_tokens\": \[\]/\"added_tokens\": [$(added '<s>' 256), $(added '<\/s>' 257), $(added "$(printf '%0400d' 0)" 258)]/" "$work/run/tokenizer.json" >"$work/around/tokenizer.json"
"$fathom" train --data "$work/text.txt" --tokenizer "$work/around" --out "$work/special" --steps 1 --layers 2 --mod topk --dim 32 --heads 1 \
    --seq-len 64 --batch 1 --val-fraction 0 --threads 1 >"$work/train.out" 2>&1
check "a model whose tokenizer puts tokens around a text" test $? -eq 0
cp -r "$work/special" "$work/ids" && rm "$work/ids/tokenizer.json"
check "serve --help" sh -c "'$fathom' serve --help | grep -q '^usage: fathom serve DIR'"
refuses "serve nothing" 2 "directory" "$fathom" serve
refuses "serve of no model" 1 "$work/none" "$fathom" serve "$work/none"
refuses "port out of range" 2 "--port: 70000" "$fathom" serve "$work/run" --port 70000
refuses "no queue below nothing" 2 "--max-queue: -1" "$fathom" serve "$work/run" --max-queue -1
refuses "more active than the engine takes" 2 "--max-active: 4097" "$fathom" serve "$work/run" --max-active 4097
refuses "no body limit of nothing" 2 "--max-body: 0" "$fathom" serve "$work/run" --max-body 0
refuses "an empty key" 2 "--api-key" "$fathom" serve "$work/run" --api-key ""
refuses "an unknown template" 2 "--chat-template: nonsense" "$fathom" serve "$work/run" --chat-template nonsense
refuses "a name that is not UTF-8" 2 "not UTF-8" "$fathom" serve "$work/run" --model-name "$(printf 'mod\350le')" --port 0
refuses "a name too long for an address" 2 "--model-name: 201 bytes" "$fathom" serve "$work/run" --model-name "$(printf '%201s' x)" --port 0
refuses "an address that is not ours" 1 "192.0.2.1" "$fathom" serve "$work/run" --host 192.0.2.1 --port 0
python3 "$FATHOM_ROOT/tests/serve/clients.py" "$fathom" "$work/run" "$work" 2>&1
failures=$((failures + ($? != 0)))
finish
