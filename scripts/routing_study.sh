#!/bin/sh
# Every routing scheme at equal training FLOPs: docs/routing.md's table. Each variant is trained from every seed at every learning rate of
# the lists, and shown at the rate that gave it the lowest mean held-out loss. Two runs at a time, one thread each; what is done is kept,
# so that the script can be stopped and run again. routing_study.sh BINARY DATA [OUT]
set -eu
fathom=$1 data=$2
out=${3:-routing-study}
flops=${STUDY_FLOPS:-6e12}
seeds=${STUDY_SEEDS:-1 2 3}
rates=${STUDY_RATES:-2e-3 4e-3}
common="--layers 8 --seq-len 256 --batch 8 --flops $flops --eval-tokens 0 --threads 1"
experts="--experts 4 --experts-per-token 1"

mkdir -p "$out"
# NAME|OPTIONS
variants() {
    cat <<EOF
plain|--dim 64
plain-48|--dim 48 --heads 2
plain-32|--dim 32
topk|--dim 64 --mod topk
stochastic|--dim 64 --mod stochastic
token-choice|--dim 64 --mod token-choice
every-block|--dim 64 --mod topk --mod-every 1
moe-tokens|--dim 64 $experts --expert-router token-choice
moe-experts|--dim 64 $experts --expert-router expert-choice
staged-experts|--dim 64 $experts --mod topk --expert-router expert-choice
staged-tokens|--dim 64 $experts --mod topk --expert-router token-choice
integrated-experts|--dim 64 $experts --mod topk --mode integrated
integrated-tokens|--dim 64 $experts --mod token-choice --mode integrated
attn|--dim 64 --mod topk --mod-unit attn
mlp|--dim 64 --mod topk --mod-unit mlp
attn+mlp|--dim 64 --mod topk --mod-unit attn+mlp
route-kv-no|--dim 64 --mod topk --mod-route-kv no
aux|--dim 64 --mod topk --mod-causal aux
sigmoid|--dim 64 --mod topk --mod-gate sigmoid
schedule|--dim 64 --mod topk --mod-capacity-schedule linear --mod-capacity 0.2,0.05
warmup|--dim 64 --mod topk --mod-capacity-warmup 150
EOF
}

value() { sed -n "s/.*\"$2\": *\([0-9.e+-]*\).*/\1/p" "$1"; }

# run NAME SEED RATE OPTIONS...
run() {
    run=$1-$2-$3 seed=$2 rate=$3
    shift 3
    [ -s "$out/$run.json" ] && return
    rm -rf "${out:?}/$run"
    # shellcheck disable=SC2086  # lists of words
    "$fathom" train --data "$data" --out "$out/$run" $common --seed "$seed" --lr "$rate" "$@" --json >"$out/$run.part" 2>"$out/$run.log" ||
        { cat "$out/$run.log" >&2; exit 1; }
    mv "$out/$run.part" "$out/$run.json"
    rm -rf "$out/$run/trainer"
}

# Every line of standard input, "NAME|SEED|RATE|OPTIONS", two at a time.
run_all() {
    first=
    while IFS='|' read -r name seed rate options; do
        # shellcheck disable=SC2086
        run "$name" "$seed" "$rate" $options &
        last=$!
        [ -z "$first" ] || wait "$first"
        first=$last
    done
    wait "$last"
}

# The learning rate that gave a variant its lowest mean loss.
best_rate() {
    for rate in $rates; do
        for seed in $seeds; do echo "$(value "$out/$1-$seed-$rate.json" eval_loss) $rate"; done
    done | awk '{ sum[$2] += $1 } END { for (rate in sum) print sum[rate], rate }' | sort -n | head -1 | cut -d' ' -f2
}

for seed in $seeds; do
    for rate in $rates; do variants | sed "s/|/|$seed|$rate|/"; done
done | run_all

# Mean and standard deviation over the seeds, the best first.
echo "| variant | rate | steps | parameters | FLOPs/token | loss as trained | causal loss |"
echo "| --- | --- | --- | --- | --- | --- | --- |"
variants | while IFS='|' read -r name options; do
    rate=$(best_rate "$name")
    forward=$("$fathom" flops "$out/$name-${seeds%% *}-$rate" --json)
    forward=$(echo "$forward" | sed -n 's/.*"forward_flops_per_token": *\([0-9.e+]*\).*/\1/p')
    for seed in $seeds; do
        json=$out/$name-$seed-$rate.json
        echo "$name $rate $(value "$json" steps) $(value "$json" params) $forward $(value "$json" eval_loss) $(value "$json" eval_loss_causal)"
    done
done | awk '
    { n[$1]++; head[$1] = sprintf("%s | %s | %d | %.2f M | %.2f M", $1, $2, $3, $4 / 1e6, $5 / 1e6)
      a[$1] += $6; aa[$1] += $6 * $6; b[$1] += $7; bb[$1] += $7 * $7 }
    function spread(s, ss, k) { return k > 1 && ss > s * s / k ? sqrt((ss - s * s / k) / (k - 1)) : 0 }
    END {
        for (v in n)
            printf "%.6f | %s | %.4f ± %.4f | %.4f ± %.4f |\n", a[v] / n[v], head[v], a[v] / n[v], spread(a[v], aa[v], n[v]),
                b[v] / n[v], spread(b[v], bb[v], n[v])
    }' | sort -n | cut -d' ' -f2-
echo
echo "Losses at each rate, by seed:"
variants | while IFS='|' read -r name options; do
    for rate in $rates; do
        printf '%s %s' "$name" "$rate"
        for seed in $seeds; do printf ' %.4f' "$(value "$out/$name-$seed-$rate.json" eval_loss)"; done
        echo
    done
done
