# A whole study in seconds: accounting, killing and going on, several processes, result files, plots, refusals.
. "$(dirname "$0")/../tap.sh"

awk 'BEGIN { for (i = 0; i < 3000; i++) print "row " i ": " i * i % 97 " and " i * 7 % 13 }' >"$work/text.txt"
study="$fathom isoflop --data $work/text.txt --seq-len 32 --batch 2 --threads 1 --budget 3e9,1e10 --sizes 16,32,48 --variants plain,mod"

check "a study runs" sh -c "$study --out '$work/study' --json >'$work/study.json' 2>'$work/err'"
check "progress tells the whole" grep -q '^12 runs, 7.8e+10 training FLOPs in all' "$work/err"
check "points, optima and comparisons" python3 - "$work/study.json" <<'PY'
import json, sys
s = json.load(open(sys.argv[1]))
assert len(s["points"]) == 12 and {p["variant"] for p in s["points"]} == {"plain", "mod"}
for p in s["points"]:  # each run spent its budget, to 1 %
    assert abs(p["flops"] / p["budget"] - 1) < 0.01, p
    assert abs(3 * p["forward_flops_per_token"] * p["tokens"] / p["flops"] - 1) < 1e-6, p
    assert p["loss"] > 0 and p["loss_causal"] > 0 and p["ms_per_step"] > 0
    assert abs(p["learning_rate"] / min(8e-3, 0.25 / p["width"]) - 1) < 1e-6
assert set(s["optimum"]) == {"vanilla", "mod"} and len(s["optima"]) == 4 and "laws" in s
PY
check "the files hold the same" sh -c "test \$(wc -l <'$work/study/results.csv') -eq 13 && grep -q '\"comparisons\"' '$work/study/results.json'"
if command -v gnuplot >/dev/null; then
    for plot in isoflop learning-flops learning-time speed; do
        check "$plot is drawn" sh -c "grep -q '<svg' '$work/study/plots/$plot.svg' && test \$(head -c 8 '$work/study/plots/$plot.png' | od -An -tx1 | tr -d ' \n') = 89504e470d0a1a0a"
    done
else
    skip "plots are drawn" "no gnuplot"
fi
check "the page has the plots inside" sh -c "grep -q '<svg' '$work/study/report.html' && grep -q 'All 12 runs' '$work/study/report.html'"
before=$(cksum <"$work/study/results.csv")
check "what is done is not done again" sh -c "$study --out '$work/study' >/dev/null 2>&1"
check "results stay" test "$(cksum <"$work/study/results.csv")" = "$before"

check "step times are taken in turn" sh -c "$study --speed --out '$work/study' >'$work/out' 2>'$work/err' && grep -q 'round 7/7' '$work/err' && ! grep -q 'the runs. own' '$work/out'"
check "each shape has one" python3 - "$work/study" <<'PY'
import json, sys
speeds = json.load(open(sys.argv[1] + "/speeds.json"))
assert speeds["rounds"] == 7 and speeds["threads"] == 1 and speeds["dtype"] == "fp32"
assert sorted((s["variant"], s["width"]) for s in speeds["shapes"]) == [(v, w) for v in ("mod", "plain") for w in (16, 32, 48)]
for s in speeds["shapes"]:
    assert abs(s["ms_per_step"] * s["tokens_per_s"] / 1e3 / 64 - 1) < 1e-6
at = {(s["variant"], s["width"]): s["tokens_per_s"] for s in speeds["shapes"]}
results = json.load(open(sys.argv[1] + "/results.json"))
for p in results["points"]:  # and it is what the report uses
    assert abs(p["tokens_per_s"] / at[p["variant"], p["width"]] - 1) < 1e-6
PY
refuses "step times without training" 2 "--speed" "$fathom" isoflop --out "$work/study" --report --speed
refuses "runs with another batch in the folder" 1 "setting.batch: not this study" sh -c "$study --batch 1 --out '$work/study'"
sed 's/16/17/' "$work/text.txt" >"$work/other.txt"
refuses "runs of another text in the folder" 1 "setting.text: not this study" sh -c "$study --data '$work/other.txt' --out '$work/study'"

# Killed again and again, by two processes at once, it ends with the losses of one that was left alone.
for i in 1 2 3 4 5 6; do
    $study --out "$work/killed" >/dev/null 2>&1 &
    one=$!
    $study --out "$work/killed" >/dev/null 2>&1 &
    two=$!
    sleep "0.$((i * 137 % 7 + 2))"
    kill -9 $one $two 2>/dev/null
    wait $one $two 2>/dev/null
done
$study --out "$work/killed" >/dev/null 2>&1 &
one=$!
check "a study that was killed goes on" sh -c "$study --out '$work/killed' >/dev/null 2>&1"
wait $one
check "its report is made from what is there" "$fathom" isoflop --out "$work/killed" --report
check "it ends as one left alone" sh -c "test \"\$(cut -d, -f1-5,14,15 '$work/killed/results.csv')\" = \"\$(cut -d, -f1-5,14,15 '$work/study/results.csv')\""
check "no lock or half a run is left" sh -c "! ls '$work/killed/runs' | grep -v 'json\$'"

check "another learning rate, in a folder of its own" sh -c "$study --lr-factor 0.1 --out '$work/rates' --sizes 16 --variants plain >/dev/null 2>&1; grep -q '\"learning_rate\": 0.00625' '$work/rates/runs/plain-16-1e+10-1.json'"
refuses "a folder whose runs were trained differently" 1 "setting" sh -c "cp '$work/study/runs/mod-16-1e+10-1.json' '$work/rates/runs'; $fathom isoflop --out '$work/rates' --report"
refuses "a learning rate below 0" 2 "--lr-factor: -1" "$fathom" isoflop --data "$work/text.txt" --budget 1e10 --lr-factor -1 --out "$work/new"
refuses "a study without data" 2 "--data" "$fathom" isoflop --budget 1e10 --out "$work/new"
refuses "a study without budget" 2 "--budget" "$fathom" isoflop --data "$work/text.txt" --out "$work/new"
refuses "a budget that is no number" 2 "--budget: 1e10,much" "$fathom" isoflop --data "$work/text.txt" --budget 1e10,much --out "$work/new"
refuses "a budget that buys nothing" 1 "steps" "$fathom" isoflop --data "$work/text.txt" --budget 1e7 --sizes 64 --out "$work/new"
refuses "an unknown variant" 2 "moe" "$fathom" isoflop --data "$work/text.txt" --budget 1e10 --variants plain,moe --out "$work/new"
refuses "sizes that are none" 2 "--sizes: 3.5" "$fathom" isoflop --data "$work/text.txt" --budget 1e10 --sizes 3.5 --out "$work/new"
refuses "text too short to hold any out" 1 "tokens are held out" sh -c "head -c 20000 '$work/text.txt' >'$work/short.txt'; $fathom isoflop --data '$work/short.txt' --val-fraction 0.0001 --seq-len 32 --batch 2 --budget 1e10 --sizes 16 --variants plain --out '$work/new'"
refuses "a width between heads" 1 "width 40" "$fathom" isoflop --data "$work/text.txt" --budget 1e10 --sizes 40,48 --out "$work/new"
refuses "a report of nothing" 1 "$work/none" "$fathom" isoflop --out "$work/none" --report
echo '{"shapes": [{"variant": "mod", "width": 16, "ms_per_step": 0, "tokens_per_s": 1}]}' >"$work/killed/speeds.json"
refuses "a step time of nothing" 1 "speeds.json: shapes" "$fathom" isoflop --out "$work/killed" --report
one="$work/killed/runs/plain-16-1e+10-1.json"
rm "$work/killed/speeds.json"
cp "$one" "$work/one.json"
sed 's/"budget": [^,]*/"budget": null/' "$work/one.json" >"$one"
refuses "a result without its budget" 1 "budget: null" "$fathom" isoflop --out "$work/killed" --report
sed "s/\"variant\": [^,]*/\"variant\": \"plain'.system('touch $(echo "$work" | sed 's#/#\\/#g')\/touched').'\"/" "$work/one.json" >"$one"
refuses "a variant that would be a command" 1 "variant: " "$fathom" isoflop --out "$work/killed" --report
check "and it was none" test ! -e "$work/touched"
echo '{"variant": "mod"}' >"$work/study/runs/broken.json"
refuses "a result without its fields" 1 "broken.json: width" "$fathom" isoflop --out "$work/study" --report
finish
