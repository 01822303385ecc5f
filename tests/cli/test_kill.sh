# Nothing lost: a run killed with SIGKILL at 20 random moments and resumed each time ends with the bits of one that was never
# killed, and whenever a model is there it loads.
. "$(dirname "$0")/../tap.sh"

awk 'BEGIN { for (i = 0; i < 3000; i++) print "row " i ": " i * i % 97 " and " i * 7 % 13 }' >"$work/text.txt"
options="--data $work/text.txt --steps 6000 --save-every 3 --layers 4 --dim 32 --heads 2 --ffn 64 --seq-len 32 --batch 4 --mod topk
    --mod-capacity 0.25 --lr 3e-3 --eval-tokens 2000 --threads 1"

"$fathom" train $options --out "$work/whole" >/dev/null 2>&1
check "the undisturbed run" test $? -eq 0

kills=0 tries=0 broken=0 resumed=0
while [ $kills -lt 20 ] && [ $tries -lt 60 ]; do
    tries=$((tries + 1))
    "$fathom" train $options --out "$work/killed" --resume >/dev/null 2>"$work/err" &
    child=$!
    sleep "$(od -An -N2 -tu2 /dev/urandom | awk '{ printf "%.3f", 0.05 + $1 / 65536 * 0.4 }')"
    if kill -9 $child 2>/dev/null; then kills=$((kills + 1)); fi
    wait $child 2>/dev/null
    grep -q 'resuming after' "$work/err" && resumed=$((resumed + 1))
    if [ -e "$work/killed/model.safetensors" ]; then
        "$fathom" eval "$work/killed" --data "$work/text.txt" --tokens 64 >/dev/null 2>"$work/eval.err" || {
            broken=$((broken + 1))
            sed 's/^/# /' "$work/eval.err"
        }
    fi
    [ -e "$work/killed/trainer/state.json" ] && grep -q '"step": 6000' "$work/killed/trainer/state.json" && break
done
echo "# $kills kills, $resumed resumptions, state at $(field "$work/killed/trainer/state.json" step 2>/dev/null | head -1)"
check "the run was killed 20 times" test $kills -eq 20
check "it was resumed from checkpoints" test $resumed -ge 5
check "every model that was found loads" test $broken -eq 0
"$fathom" train $options --out "$work/killed" --resume >/dev/null 2>"$work/err"
check "it runs to its end" test $? -eq 0
for file in model.safetensors trainer/model.safetensors trainer/optimizer.safetensors trainer/state.json config.json; do
    check "same bits: $file" cmp "$work/whole/$file" "$work/killed/$file"
done
strip() { sed 's/"tokens_per_s": [^,]*, //' "$1"; }
strip "$work/whole/log.jsonl" >"$work/a"
strip "$work/killed/log.jsonl" >"$work/b"
check "same log" cmp "$work/a" "$work/b"
finish
