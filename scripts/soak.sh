#!/bin/sh
# A server under mixed load for SOAK_MINUTES (30): soak.sh BINARY. A line a minute, a table at the end; fails where anything was wrong.
set -eu
fathom=$1
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/fathom-soak-XXXXXX")
trap 'rm -rf "$work"' EXIT

awk 'BEGIN { for (i = 0; i < 600; i++) print "line " i " of a text that says little, " i * 7 % 13 " times" }' >"$work/text.txt"
"$fathom" train --data "$work/text.txt" --out "$work/run" --steps 80 --layers 6 --dim 128 --heads 4 --ffn 256 --seq-len 1024 --batch 2 --lr 4e-3 \
    --val-fraction 0 --mod topk --mod-capacity 0.25 >"$work/train.out" 2>&1 || { cat "$work/train.out"; exit 1; }
python3 "$here/tests/serve/soak.py" "$fathom" "$work/run" "$work" "${SOAK_MINUTES:-30}"
