#!/bin/sh
# Every routing scheme at equal training FLOPs, three seeds each: docs/routing.md's table. Two runs at a time, one thread each; what is
# done is kept, so that the script can be stopped and run again. routing_study.sh BINARY DATA [OUT]
set -eu
fathom=$1 data=$2
out=${3:-routing-study}
flops=${STUDY_FLOPS:-1.6e13}
seeds=${STUDY_SEEDS:-1 2 3}
common="--layers 8 --seq-len 256 --batch 16 --flops $flops --eval-tokens 0 --threads 1"
experts="--experts 4 --experts-per-token 1"

mkdir -p "$out"
# NAME|OPTIONS; the first word of NAME names the row's files
variants() {
    cat <<EOF
plain|--dim 128
plain-96|--dim 96 --heads 3
topk|--dim 128 --mod topk
stochastic|--dim 128 --mod stochastic
token-choice|--dim 128 --mod token-choice
moe-tokens|--dim 128 $experts --expert-router token-choice
moe-experts|--dim 128 $experts --expert-router expert-choice
staged-experts|--dim 128 $experts --mod topk --expert-router expert-choice
staged-tokens|--dim 128 $experts --mod topk --expert-router token-choice
integrated-experts|--dim 128 $experts --mod topk --mode integrated
integrated-tokens|--dim 128 $experts --mod token-choice --mode integrated
every-block|--dim 128 --mod topk --mod-every 1
attn|--dim 128 --mod topk --mod-unit attn
mlp|--dim 128 --mod topk --mod-unit mlp
attn+mlp|--dim 128 --mod topk --mod-unit attn+mlp
route-kv-no|--dim 128 --mod topk --mod-route-kv no
aux|--dim 128 --mod topk --mod-causal aux
sigmoid|--dim 128 --mod topk --mod-gate sigmoid
capacity-0.5|--dim 128 --mod topk --mod-capacity 0.5
schedule|--dim 128 --mod topk --mod-capacity-schedule linear --mod-capacity 0.2,0.05
warmup|--dim 128 --mod topk --mod-capacity-warmup 120
EOF
}

# run NAME SEED LR OPTIONS...
run() {
    name=$1-$2-$3 seed=$2 lr=$3
    shift 3
    [ -s "$out/$name.json" ] && return
    rm -rf "$out/$name"
    # shellcheck disable=SC2086  # lists of words
    "$fathom" train --data "$data" --out "$out/$name" $common --seed "$seed" --lr "$lr" "$@" --json >"$out/$name.part" 2>"$out/$name.log"
    mv "$out/$name.part" "$out/$name.json"
    rm -rf "$out/$name/trainer"
}

# Every line of standard input, "NAME|SEED|LR|OPTIONS", two at a time.
run_all() {
    while IFS='|' read -r name seed lr options; do
        # shellcheck disable=SC2086
        run "$name" "$seed" "$lr" $options &
        first=${first:-$!} last=$!
        [ "$first" = "$last" ] || { wait "$first"; first=$last; }
    done
    wait
}

lines() {
    for lr in 1.5e-3 3e-3 6e-3; do # is 2e-3 good for all of them?
        variants | grep -E '^(plain|topk|stochastic|moe-tokens)\|' | sed "s/|/|1|$lr|/"
    done
    for seed in $seeds; do variants | sed "s/|/|$seed|2e-3|/"; done
}
lines | run_all

# Mean and standard deviation over the seeds; the best first.
value() { sed -n "s/.*\"$2\": *\([0-9.e+-]*\).*/\1/p" "$1"; }
echo "| variant | steps | parameters | loss as trained | causal loss |"
echo "| --- | --- | --- | --- | --- |"
variants | while IFS='|' read -r name options; do
    for seed in $seeds; do
        run=$out/$name-$seed-2e-3.json
        [ -s "$run" ] && echo "$name $(value "$run" steps) $(value "$run" params) $(value "$run" eval_loss) $(value "$run" eval_loss_causal)"
    done
done | awk '
    { n[$1]++; steps[$1] = $2; params[$1] = $3; a[$1] += $4; aa[$1] += $4 * $4; b[$1] += $5; bb[$1] += $5 * $5 }
    function spread(s, ss, k) { return k > 1 ? sqrt((ss - s * s / k > 0 ? ss - s * s / k : 0) / (k - 1)) : 0 }
    END {
        for (v in n)
            printf "%.6f | %s | %d | %.2f M | %.4f ± %.4f | %.4f ± %.4f |\n", a[v] / n[v], v, steps[v], params[v] / 1e6, a[v] / n[v],
                spread(a[v], aa[v], n[v]), b[v] / n[v], spread(b[v], bb[v], n[v])
    }' | sort -n | cut -d' ' -f2-
echo
echo "Losses of seed 1 at other learning rates:"
for run in "$out"/*-1-1.5e-3.json "$out"/*-1-3e-3.json "$out"/*-1-6e-3.json; do
    [ -s "$run" ] && echo "$(basename "$run" .json): $(value "$run" eval_loss)"
done
