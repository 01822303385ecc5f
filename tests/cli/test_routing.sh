# Every kind of routing from training to sampling by the command line, and what does not go together.
. "$(dirname "$0")/../tap.sh"

shape="--layers 4 --dim 32 --heads 2 --ffn 48 --seq-len 32 --batch 4 --threads 1"
for i in $(seq 400); do echo "line $i of a text that is read, $((i * 7919 % 1000)) times"; done >"$work/text.txt"

kind() {
    what=$1 dial=$2
    shift 2
    run=$work/$what
    # shellcheck disable=SC2086  # lists of words
    check "$what trains" "$fathom" train --data "$work/text.txt" --out "$run" --steps 6 --save-every 3 $shape "$@"
    check "$what resumes" "$fathom" train --data "$work/text.txt" --out "$run" --resume --threads 1
    for routing in topk causal; do
        check "$what evaluates, $routing" sh -c "'$fathom' eval '$run' --data '$work/text.txt' --tokens 500 --routing $routing --threads 1 --json >'$work/out'"
    done
    check "$what generates" "$fathom" generate "$run" --prompt "line" --max-tokens 8 --threads 1
    check "$what counts its FLOPs" "$fathom" flops "$run"
    for kind in bf16 q8; do
        check "$what converts to $kind" "$fathom" convert "$run" "$run-$kind" --quantize $kind
        check "$what generates in $kind" "$fathom" generate "$run-$kind" --prompt "line" --max-tokens 8 --threads 1
    done
    if [ "$dial" = dial ]; then
        check "$what is calibrated" "$fathom" calibrate "$run" --data "$work/text.txt" --tokens 1000 --threads 1
        check "$what takes a budget" "$fathom" generate "$run" --prompt "line" --max-tokens 8 --threads 1 --budget 0.3
    fi
    [ "$dial" = none ] || check "$what is inspected" "$fathom" inspect "$run" --text "line 7 of" --threads 1 --html "$work/page.html"
}
kind attn dial --mod topk --mod-unit attn
kind mlp dial --mod topk --mod-unit mlp
kind both dial --mod token-choice --mod-unit attn+mlp
kind dense dial --mod topk --mod-route-kv no
kind moe-tokens none --experts 3 --experts-per-token 2
kind moe-experts none --experts 3 --experts-per-token 1 --expert-router expert-choice
kind staged dial --mod topk --experts 3 --experts-per-token 1
kind integrated map --mod topk --experts 3 --experts-per-token 1 --mode integrated
kind integrated-tokens map --mod token-choice --experts 3 --experts-per-token 2 --mode integrated --no-op-experts 2
kind warmup dial --mod topk --mod-capacity-warmup 4

check "two routers of a layer are told apart" sh -c "'$fathom' inspect '$work/both' --text 'line 7 of' | grep -q '  1 attn' &&
    '$fathom' inspect '$work/both' --text 'line 7 of' --json | grep -q '\"unit\": \"mlp\"'"
check "Mixtral's names" grep -aq 'model.layers.3.block_sparse_moe.experts.2.w3.weight' "$work/moe-tokens/model.safetensors"

# From a plain model
# shellcheck disable=SC2086
"$fathom" train --data "$work/text.txt" --out "$work/plain" --steps 40 --lr 3e-3 $shape >/dev/null 2>&1
init="--data $work/text.txt --init $work/plain --batch 4 --threads 1"
# shellcheck disable=SC2086
check "a plain model is converted" sh -c "'$fathom' train $init --out '$work/converted' --mod topk --steps 10 --log-every 1 --save-every 4 2>'$work/err'"
check "conversion says how routers start" sh -c "grep -q 'routers start at logits of' '$work/err' && grep -q 'capacity falls from 1 over 2 steps' '$work/err'"
"$fathom" train $init --out "$work/onward" --steps 10 --log-every 1 >/dev/null 2>&1
first() { sed -n '1s/.*"loss": \([^,]*\),.*/\1/p' "$work/$1/log.jsonl"; }
check "its first step's loss is near the plain model's" awk "BEGIN { a = $(first converted); b = $(first onward); exit !(a / b < 1.05 && a / b > 0.95) }"
check "a converted run resumes" "$fathom" train --out "$work/converted" --resume --data "$work/text.txt"
check "a converted run is a routed model" grep -q '"router": "topk"' "$work/converted/config.json"

# What does not go together: one line each
sums() { (cd "$work" && find attn integrated plain -type f | sort | xargs cksum); }
before=$(sums)
plain="$fathom train --data $work/text.txt --out $work/new --steps 2 $shape"
refuses "experts without K" 2 "--experts: 4: needs --experts-per-token" $plain --experts 4
refuses "K without experts" 2 "--experts-per-token: needs --experts" $plain --experts-per-token 2
refuses "more K than experts" 2 "--experts-per-token: 5" $plain --experts 4 --experts-per-token 5
refuses "integrated without experts" 2 "--mode integrated: needs --experts" $plain --mod topk --mode integrated
refuses "integrated without routing" 2 "--mode: integrated: needs --mod" $plain --experts 4 --experts-per-token 1 --mode integrated
refuses "unknown mode" 2 "--mode: mixed" $plain --mod topk --experts 4 --experts-per-token 1 --mode mixed
refuses "unknown router of experts" 2 "--expert-router: best" $plain --experts 4 --experts-per-token 1 --expert-router best
refuses "no-op experts of a staged model" 2 "--no-op-experts" $plain --mod topk --experts 4 --experts-per-token 1 --no-op-experts 2
refuses "integrated with two routers" 2 "--expert-router: token-choice" $plain --mod topk --experts 4 --experts-per-token 1 --mode integrated --expert-router token-choice
refuses "integrated with stochastic routing" 2 "--mode: integrated: needs --mod" $plain --mod stochastic --experts 4 --experts-per-token 1 --mode integrated
refuses "integrated with a gate" 2 "--mod-gate" $plain --mod topk --experts 4 --experts-per-token 1 --mode integrated --mod-gate one
refuses "too many no-op experts" 2 "--no-op-experts: 300" $plain --mod topk --experts 4 --experts-per-token 1 --mode integrated --no-op-experts 300
refuses "a mode without experts" 2 "--mode: needs --experts" $plain --mod topk --mode staged
refuses "a capacity without routing" 2 "--mod-capacity: needs --mod" $plain --mod-capacity 0.3
refuses "a warm-up longer than the run" 1 "mod-capacity-warmup: 9" $plain --mod topk --mod-capacity-warmup 9
refuses "decoding untrained expert-choice" 2 "--expert-router" "$fathom" bench decode --dim 32 --layers 2 --mod topk --experts 4 --experts-per-token 1
refuses "expert-choice behind token-choice" 2 "--expert-router: expert-choice" $plain --mod token-choice --experts 4 --experts-per-token 1 --expert-router expert-choice
refuses "unknown unit" 2 "--mod-unit: head" $plain --mod topk --mod-unit head
refuses "dense keys of a routed MLP" 2 "--mod-route-kv: no" $plain --mod topk --mod-unit mlp --mod-route-kv no
refuses "route-kv neither yes nor no" 2 "--mod-route-kv: maybe" $plain --mod topk --mod-route-kv maybe
refuses "units of a plain model" 2 "--mod-unit" $plain --mod-unit attn
refuses "warm-up of a plain model" 2 "--mod-capacity-warmup: 5" $plain --mod-capacity-warmup 5
refuses "warm-up of integrated experts" 2 "--mod-capacity-warmup: 5" $plain --mod topk --experts 4 --experts-per-token 1 --mode integrated --mod-capacity-warmup 5
refuses "calibrating integrated experts" 1 "integrated" "$fathom" calibrate "$work/integrated" --data "$work/text.txt"
refuses "budget of integrated experts" 1 "integrated" "$fathom" generate "$work/integrated" --prompt a --max-tokens 4 --budget 0.1
refuses "calibrating experts alone" 1 "plain" "$fathom" calibrate "$work/moe-tokens" --data "$work/text.txt"
refuses "inspecting experts alone" 1 "experts alone" "$fathom" inspect "$work/moe-tokens" --text a
refuses "--init with another shape" 2 "--init" "$fathom" train $init --out "$work/new" --steps 2 --mod topk --dim 64
refuses "--init of a routed model with routing" 2 "has routers or experts already" "$fathom" train --data "$work/text.txt" --init "$work/attn" --out "$work/new" --steps 2 --mod topk
refuses "--init with experts" 2 "--experts" "$fathom" train $init --out "$work/new" --steps 2 --experts 4 --experts-per-token 1
refuses "--init with the default's layers" 2 "--init" "$fathom" train $init --out "$work/new" --steps 2 --layers 8
refuses "--init with routing but no --mod" 2 "--mod-capacity: needs --mod" "$fathom" train $init --out "$work/new" --steps 2 --mod-capacity 0.3
refuses "resuming a converted run as another" 1 "shape" "$fathom" train $init --out "$work/converted" --resume --mod topk --mod-capacity 0.9
cp -r "$work/plain" "$work/other" && sed -i 's/"merges": *\[/"merges": ["a b"/' "$work/other/tokenizer.json"
refuses "--init of a model with a broken tokenizer" 1 "tokenizer.json" "$fathom" train --data "$work/text.txt" --init "$work/other" --out "$work/new" --steps 2
refuses "--init of nothing" 1 "$work/none" "$fathom" train --data "$work/text.txt" --init "$work/none" --out "$work/new" --steps 2
check "nothing on disk was harmed" test "$(sums)" = "$before"
check "refused runs leave no model" test ! -e "$work/new"
finish
