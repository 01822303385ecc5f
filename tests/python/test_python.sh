# The Python package, from the source tree, with Debian's python3 and numpy alone.
. "$(dirname "$0")/../tap.sh"
python=/usr/bin/python3
if ! $python -c 'import numpy' 2>/dev/null; then
    skip "the Python package" "$python has no numpy (Debian: python3-numpy)"
    finish
fi
cd "$work" || exit 1
i=0
while [ $i -lt 400 ]; do
    echo "$i. À la carte: crème brûlée, 日本語, 🎈."
    i=$((i + 1))
done >text.txt
model="--layers 4 --dim 48 --heads 4 --seq-len 128 --batch 8 --steps 80 --lr 1e-2"
# shellcheck disable=SC2086  # a list of options
check "a routed model" "$fathom" train --data text.txt --out run $model --mod topk --mod-capacity 0.25
# shellcheck disable=SC2086
check "one that routes attention and MLP apart" "$fathom" train --data text.txt --out both $model --steps 5 --mod topk --mod-unit attn+mlp
# shellcheck disable=SC2086
check "a plain model" "$fathom" train --data text.txt --out plain $model --steps 5
if grep -q 'FATHOM_ASAN:BOOL=ON' "$FATHOM_BUILD/CMakeCache.txt"; then # python itself is not sanitized, and leaks on purpose
    LD_PRELOAD=$(cc -print-file-name=libasan.so):$(cc -print-file-name=libubsan.so)
    ASAN_OPTIONS=detect_leaks=0
    export LD_PRELOAD ASAN_OPTIONS
fi
export FATHOM_LIBRARY="$FATHOM_BUILD/libfathom.so" PYTHONPATH="$FATHOM_ROOT/python" PYTHONDONTWRITEBYTECODE=1
$python "$FATHOM_ROOT/tests/python/package.py" || failures=1
finish
