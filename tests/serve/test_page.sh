# The page of fathom serve: asks for nothing from elsewhere, and is used in a real browser.
. "$(dirname "$0")/../tap.sh"

page=$FATHOM_ROOT/src/serve/page.html
check "the page asks for nothing from elsewhere" sh -c "! grep -qE 'src=|url\\(|@import|https?:' '$page'"
check "texts never become HTML" sh -c "! grep -qE 'innerHTML|outerHTML|insertAdjacent|document.write' '$page'"
if ! { [ -x /usr/bin/chromium ] && [ -x /usr/bin/chromedriver ] && /usr/bin/python3 -c 'import selenium' 2>/dev/null; }; then
    skip "the page in a browser" "no chromium, chromium-driver and python3-selenium"
    finish
fi
# short lines of HTML, which a small model knows by heart after some steps
awk 'BEGIN { for (i = 0; i < 4000; i++) print "<b>line</b> <img src=x onerror=alert(1)>" }' >"$work/text.txt"
train() {
    "$fathom" train --data "$work/text.txt" --heads 4 --val-fraction 0 --batch 1 --threads 1 "$@" >"$work/train.out" 2>&1
}
train --out "$work/run" --steps 40 --layers 4 --dim 128 --ffn 256 --seq-len 2048 --lr 3e-3 --mod topk --mod-capacity 0.25
check "a model to serve" test $? -eq 0
train --out "$work/plain" --steps 1 --layers 8 --dim 256 --ffn 1024 --seq-len 4096
check "a plain one, slow enough to be stopped" test $? -eq 0
cp -r "$work/run" "$work/calibrated"
check "a calibrated one" "$fathom" calibrate "$work/calibrated" --data "$work/text.txt" --tokens 4096
timeout 300 /usr/bin/python3 "$FATHOM_ROOT/tests/serve/page.py" "$fathom" "$work/run" "$work" "$work/plain" "$work/calibrated" 2>&1
failures=$((failures + ($? != 0)))
finish
