#!/bin/sh
# The engine's losses and gradients against PyTorch's, from the same files, in double precision.
set -u
here=$FATHOM_ROOT/tests/reference
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if ! /usr/bin/python3 -c 'import torch' 2>/dev/null; then
    echo "1..0 # SKIP /usr/bin/python3 has no torch (Debian: python3-torch)"
    exit 77
fi
cases=
for kind in plain untied qkv-bias qkv-bias-raw qkv-bias-dense-kv raw sigmoid-aux raw-aux one stochastic token-choice token-choice-sigmoid \
    attn mlp attn+mlp attn+mlp-aux attn+mlp-choice attn+mlp-stochastic dense-kv dense-kv-choice dense-kv-attn dense-kv-attn+mlp \
    moe-tokens moe-tokens-1 moe-experts moe-experts-1 mode-staged mode-staged-tokens mode-staged-choice mode-staged-mlp \
    mode-integrated mode-integrated-choice mode-integrated-choice-1; do
    for seed in 1 2; do
        "$FATHOM_BUILD/tests/tool_case" "$work/$kind-$seed" $kind $seed || exit 1
        cases="$cases $work/$kind-$seed"
    done
done
# shellcheck disable=SC2086  # a list of folders
/usr/bin/python3 "$here/check.py" $cases && /usr/bin/python3 "$here/check.py" --selftest "$work/raw-1"
