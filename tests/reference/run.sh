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
for kind in plain untied raw sigmoid-aux raw-aux one stochastic token-choice token-choice-sigmoid; do
    for seed in 1 2; do
        "$FATHOM_BUILD/tests/tool_case" "$work/$kind-$seed" $kind $seed || exit 1
        cases="$cases $work/$kind-$seed"
    done
done
# shellcheck disable=SC2086  # a list of folders
/usr/bin/python3 "$here/check.py" $cases && /usr/bin/python3 "$here/check.py" --selftest "$work/raw-1"
