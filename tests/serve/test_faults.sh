# fathom serve among broken, slow and vanishing clients (faults.py). FATHOM_FAULTS=full: as many of them as `make test-faults` sends.
. "$(dirname "$0")/../tap.sh"

awk 'BEGIN { for (i = 0; i < 600; i++) print "line " i " of a text that says little, " i * 7 % 13 " times" }' >"$work/text.txt"
# trained until it is sure of its tokens: prompts computed beside others may differ in the last bits
"$fathom" train --data "$work/text.txt" --out "$work/run" --steps 80 --layers 4 --dim 64 --heads 4 --ffn 128 --seq-len 512 --batch 2 --lr 4e-3 \
    --val-fraction 0 --mod topk --mod-capacity 0.25 --threads 1 >"$work/train.out" 2>&1
check "a model to serve" test $? -eq 0
python3 "$FATHOM_ROOT/tests/serve/faults.py" "$fathom" "$work/run" "$work" "${FATHOM_FAULTS:-}" 2>&1
failures=$((failures + ($? != 0)))
finish
