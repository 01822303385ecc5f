# The page of `fathom inspect --html`: whole, self-contained, harmless whatever the text holds, and used in a real browser.
. "$(dirname "$0")/../tap.sh"
awk 'BEGIN { for (i = 0; i < 400; i++) print "line " i " of a text that says little, " i * 7 % 13 " times" }' >"$work/text.txt"
"$fathom" train --data "$work/text.txt" --out "$work/run" --steps 40 --layers 6 --dim 32 --heads 2 --ffn 64 --seq-len 64 --batch 4 \
    --mod topk --mod-capacity 0.25 >/dev/null 2>&1
"$fathom" calibrate "$work/run" --data "$work/text.txt" --tokens 4096 >/dev/null 2>&1
printf '</script><img src=x onerror=alert(1)><!--<script> \033[31m \377 @DATA@' >"$work/hostile.txt"
"$fathom" inspect "$work/run" --file "$work/hostile.txt" --routing topk --html "$work/hostile.html" --json >"$work/hostile.json" 2>/dev/null
check "a text cannot end the page's script" test "$(grep -o '</script' "$work/hostile.html" | wc -l)" -eq 2
check "nor bring in elements" sh -c "! grep -q '<img' '$work/hostile.html'"
check "the page asks for nothing from elsewhere" sh -c "! grep -qE '(src|href)=|url\\(|@import|https?:' '$work/hostile.html'"
refuses "a page that cannot be written" 1 "none/page.html" "$fathom" inspect "$work/run" --text a --html "$work/none/page.html"
mkfifo "$work/pipe"
refuses "a page in a pipe's place" 1 "pipe" "$fathom" inspect "$work/run" --text a --html "$work/pipe"
check "the pipe is still there" test -p "$work/pipe"
yes "a long text" | head -c 20001 >"$work/huge.txt"
refuses "a page of too many tokens" 1 "--html" "$fathom" inspect "$work/run" --file "$work/huge.txt" --html "$work/page.html"
odd=$(printf 'm\377')
cp -r "$work/run" "$work/$odd"
"$fathom" inspect "$work/$odd" --text a --html "$work/odd.html" >/dev/null 2>&1
check "a folder whose name is no UTF-8 has a title" grep -q '"model":' "$work/odd.html"
refuses "a page of statistics" 2 "--html" "$fathom" inspect "$work/run" --stats --data "$work/text.txt" --html "$work/page.html"
if [ -x /usr/bin/chromium ] && [ -x /usr/bin/chromedriver ] && /usr/bin/python3 -c 'import selenium' 2>/dev/null; then
    head -c 4000 "$work/text.txt" >"$work/long.txt"
    for routing in "causal --budget 0.2" topk; do
        # shellcheck disable=SC2086  # a word or three
        "$fathom" inspect "$work/run" --file "$work/long.txt" --routing $routing --html "$work/long.html" --json >"$work/long.json" 2>/dev/null
        check "4000 tokens by $routing in a browser" timeout 120 /usr/bin/python3 "$FATHOM_ROOT/tests/inspect/report_page.py" \
            "$work/long.html" "$work/long.json"
    done
    check "a hostile text in a browser" timeout 120 /usr/bin/python3 "$FATHOM_ROOT/tests/inspect/report_page.py" "$work/hostile.html" "$work/hostile.json"
else
    skip "the page in a browser" "no chromium, chromium-driver and python3-selenium"
fi
finish
