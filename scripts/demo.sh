#!/bin/sh
# Trains four byte-level models on text that this machine has, at equal training FLOPs and from one seed, and prints them side
# by side: plain; plain of a smaller shape with about the MoD model's forward FLOPs; Mixture-of-Depths; and the control, routed
# at random. demo.sh BINARY [OUT]
set -eu
fathom=$1
out=${2:-demo-out}
flops=${DEMO_FLOPS:-1e13}

# Shapes near the optimum of this budget: docs/demo.md has the sizes that were tried.
shape="--layers 8 --seq-len 256 --batch 8"
common="$shape --lr 4e-3 --seed 1 --flops $flops --eval-tokens 262144"
large="--dim 64"
small="--dim 48 --heads 2"
mod="--mod-capacity 0.125 --mod-every 2"

data=
for folder in /usr/include/linux /usr/include/asm-generic; do [ -d $folder ] && data="$data $folder"; done
[ -n "$data" ] || { echo "fathom: no C headers under /usr/include: install libc6-dev" >&2; exit 1; }

for name in plain small mod stochastic; do
    rm -rf "${out:?}/$name" "$out/$name.train.json" "$out/$name.flops.json" "$out/$name.generate.json" "$out/$name.ms" "$out/$name.rate"
done
rm -f "$out/waited"
mkdir -p "$out"
began=$(date +%s)
cat <<EOF
fathom demo: four byte-level models, trained on$data
  budget        $flops training FLOPs each, the same seed, the same learning rate
  what to see   a Mixture-of-Depths block computes 1 token in 8, so a training step costs less, and the same FLOPs buy more steps

EOF

# row NAME TITLE OPTIONS...: trains
row() {
    name=$1 title=$2
    shift 2
    echo "--- $title"
    # shellcheck disable=SC2086  # lists of words
    "$fathom" train --data $data --out "$out/$name" $common "$@" --json >"$out/$name.train.json"
    "$fathom" flops "$out/$name" --json >"$out/$name.flops.json"
}
# shellcheck disable=SC2086
{
    row plain "plain, 8 blocks ($large)" $large
    row small "plain, smaller ($small)" $small
    row mod "Mixture-of-Depths, learned routing, every other block sees 1/8 of the tokens ($large)" $large --mod topk $mod
    row stochastic "control: the same blocks routed at random ($large)" $large --mod stochastic $mod
}

field() { sed -n "s/.*\"$2\": *\([^,}]*\).*/\1/p" "$1"; }
# Speeds are compared within one stretch of time, in turn, and medians count: a machine's speed drifts, and others use it.
echo "--- speed of steps and of decoding, the four models in turn"
speed() {
    name=$1
    shift
    # shellcheck disable=SC2086
    "$fathom" bench train $shape --steps 30 "$@" --json 2>/dev/null >"$out/bench.json"
    field "$out/bench.json" ms_per_step >>"$out/$name.ms"
    field "$out/bench.json" waited >>"$out/waited"
    "$fathom" generate "$out/$name" --prompt "/* SPDX-License" --max-tokens 200 --json >"$out/$name.generate.json"
    field "$out/$name.generate.json" tokens_per_s >>"$out/$name.rate"
}
for round in 1 2 3 4 5; do
    # shellcheck disable=SC2086
    {
        speed plain $large
        speed small $small
        speed mod $large --mod topk $mod
        speed stochastic $large --mod stochastic $mod
    }
    echo "round $round of 5" >&2
done
median() { sort -n | sed -n 3p; }
# of the rounds' ratios: what slows a round slows both of its models
step_ratio=$(paste "$out/mod.ms" "$out/plain.ms" | awk '{ print $1 / $2 }' | median)
rm -f "$out/bench.json"
{
    printf '\n%-24s %9s %11s %6s %8s %8s %8s %10s %8s\n' "" params "FLOPs/token" steps "loss" "loss" "ms per" "decode" "KV"
    printf '%-24s %9s %11s %6s %8s %8s %8s %10s %8s\n' "" "" "(forward)" "" "(topk)" "(causal)" "step" "tokens/s" "bytes"
    for name in plain small mod stochastic; do
        t=$out/$name.train.json
        case $name in
        plain) title="plain" ;;
        small) title="plain, smaller" ;;
        mod) title="Mixture-of-Depths" ;;
        stochastic) title="control (stochastic)" ;;
        esac
        printf '%-24s %9.0f %11.0f %6.0f %8.4f %8.4f %8.2f %10.0f %8.0f\n' "$title" "$(field "$t" params)" \
            "$(field "$out/$name.flops.json" forward_flops_per_token)" "$(field "$t" steps)" "$(field "$t" eval_loss)" \
            "$(field "$t" eval_loss_causal)" "$(median <"$out/$name.ms")" \
            "$(median <"$out/$name.rate")" "$(field "$out/$name.generate.json" kv_bytes)"
    done
    awk -v accuracy="$(field "$out/mod.train.json" router_accuracy)" \
        -v pf="$(field "$out/plain.flops.json" forward_flops_per_token)" -v mf="$(field "$out/mod.flops.json" forward_flops_per_token)" \
        -v ratio="$step_ratio" -v waited="$(sort -n "$out/waited" | tail -1)" \
        -v pl="$(field "$out/plain.train.json" eval_loss_causal)" -v sl="$(field "$out/small.train.json" eval_loss_causal)" \
        -v ml="$(field "$out/mod.train.json" eval_loss_causal)" -v cl="$(field "$out/stochastic.train.json" eval_loss_causal)" \
        -v mt="$(field "$out/mod.train.json" eval_loss)" 'BEGIN {
            best = pl < sl ? pl : sl
            printf "\nMoD against the plain model of its shape: %.3f x the forward FLOPs, %.3f x the time of a step.\n", mf / pf, ratio
            printf "Causal loss (what sampling gets): MoD %.4f; control %.4f; plain %.4f; smaller plain %.4f.\n", ml, cl, pl, sl
            printf "MoD against the better plain model here: %+.2f %%. ", 100 * (ml / best - 1)
            print ml < best ? "MoD is better at this budget." : "The plain model is better at this budget."
            printf "Causal against topk loss of MoD: %+.2f %%; its predictor agrees with top-k on %.1f %% of held-out tokens.\n", 100 * (ml / mt - 1), 100 * accuracy
            if (waited > 0.05)
                printf "This machine was busy: threads waited for a processor in up to %.0f %% of the time, so its speeds are too low.\n", 100 * waited
            print "One seed, one budget, two plain sizes: a picture, not a study. At equal training FLOPs a cheaper model takes more steps,"
            print "which alone lowers the loss; the control shows how much of the gain is that."
        }'
} | tee "$out/table.txt"

echo
echo "A sample of the MoD model's text:"
"$fathom" generate "$out/mod" --prompt "/* SPDX-License" --max-tokens 240 --temperature 0.7 2>/dev/null | sed 's/^/    /'
cat <<EOF

Written to $out/: a model directory for each row (plain, small, mod, stochastic), each with its log.jsonl, and table.txt.
Try:  $fathom generate $out/mod --prompt "#define " ;  $fathom eval $out/mod --data /usr/include/stdio.h
That took $(($(date +%s) - began)) seconds.
EOF
