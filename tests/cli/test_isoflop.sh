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

check "step times are taken in turn" sh -c "$study --sizes 16 --speed --out '$work/study' >'$work/out' 2>'$work/err' && grep -q 'round 7/7' '$work/err' && ! grep -q 'the runs. own' '$work/out'"
check "each shape in the folder has one" python3 - "$work/study" <<'PY'
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
cp "$work/study/runs/mod-48-1e+10-1.json" "$work/mod-48.json"
sed -i 's/"layers": [0-9]*/"layers": 6/' "$work/study/runs/mod-48-1e+10-1.json"
refuses "step times of a shape of another version" 1 "mod-48-1e+10-1: layers: 6" sh -c "$study --sizes 16 --speed --out '$work/study'"
mv "$work/mod-48.json" "$work/study/runs/mod-48-1e+10-1.json"
refuses "step times without training" 2 "--speed" "$fathom" isoflop --out "$work/study" --report --speed
refuses "runs with another batch in the folder" 1 "setting.batch: 2, not this study's 1" sh -c "$study --batch 1 --out '$work/study'"
refuses "other sizes with another batch, before they are trained" 1 "setting.batch: 2, not this study's 1" sh -c "$study --batch 1 --sizes 64 --out '$work/study'"
check "and none was" test ! -e "$work/study/runs/plain-64-3e+09-1.json"
refuses "a budget that has another's name" 1 "budget: 1e+10, a run of this name has 1.0000001e+10 now" sh -c "$study --budget 10000001000 --out '$work/study'"
sed 's/16/17/' "$work/text.txt" >"$work/other.txt"
refuses "runs of another text in the folder" 1 "not this study's" sh -c "$study --data '$work/other.txt' --out '$work/study'"

# Runs written by hand, whose optima, comparisons and laws are known.
mkdir -p "$work/known/runs"
python3 - "$work/known/runs" <<'PY'
import json, math, sys
kinds = {"plain": (3e5, 1.4, 1.0), "mod": (4e5, 1.372, 0.5), "stochastic": (4e5, 1.421, 0.5)}
for kind, (size, loss, flops) in kinds.items():
    for budget in (1e13, 1e14):
        middle, least = size * math.sqrt(budget / 1e13), loss * (budget / 1e13) ** -0.05
        for i, noise in enumerate((0.0004, -0.0005, 0.0002, -0.0003, 0.0002)):
            n = round(middle * 2.0 ** (i - 2))
            y = least + 0.05 * math.log(n / middle) ** 2 + noise
            run = {"variant": kind, "budget": budget, "width": 16 * (i + 1), "layers": 8, "seed": 1, "learning_rate": 0.004, "size": n,
                   "params": n, "steps": 100, "tokens": round(budget / (6 * n * flops)), "flops": budget, "forward_flops_per_token": 2 * n * flops,
                   "train_loss": y, "loss": y - 0.01, "loss_causal": y, "router_accuracy": None, "routed_fraction_causal": 1,
                   "ms_per_step": n / 1e4, "tokens_per_s": 1e10 / (n * flops), "setting": {"text": "a"}, "curve": [[1, 2], [budget, y]]}
            json.dump(run, open(f"{sys.argv[1]}/{kind}-{16 * (i + 1)}-{budget:g}-1.json", "w"))
PY
check "a report of known runs" sh -c "$fathom isoflop --out '$work/known' --report --json >'$work/known.json'"
check "says what was put into them" python3 - "$work/known.json" <<'PY'
import json, math, sys
r = json.load(open(sys.argv[1]))
def near(a, b, most):
    assert abs(a / b - 1) < most, (a, b)
def holds(interval, value):
    assert interval[0] < value < interval[1], (interval, value)
near(r["optimum"]["vanilla"]["loss"], 1.4 * 10 ** -0.05, 0.001)
near(r["optimum"]["mod"]["loss"], 1.372 * 10 ** -0.05, 0.001)
assert [(c["variant"], c["budget"]) for c in r["comparisons"]] == [(v, b) for v in ("mod", "stochastic") for b in (1e13, 1e14)]
for c in r["comparisons"]:
    near(1 + c["loss_difference"], {"mod": 1.372, "stochastic": 1.421}[c["variant"]] / 1.4, 0.001)
    holds(c["loss_difference_range"], {"mod": -0.02, "stochastic": 0.015}[c["variant"]])
    if c["variant"] == "stochastic":
        assert c["match_size"] is None and c["match_forward_flops_ratio"] is None and c["match_speed_ratio"] is None
        continue
    # 0.05 ln(n / 4e5)^2 = 1.4 - 1.372 (at 1e13), half the FLOPs a parameter
    share = 4 / 3 * math.exp(-math.sqrt(0.028 * (c["budget"] / 1e13) ** -0.05 / 0.05))
    near(c["match_forward_flops_ratio"], share / 2, 0.03)
    near(c["match_speed_ratio"], 2 / share, 0.03)
    holds(c["match_forward_flops_ratio_range"], share / 2)
    holds(c["match_speed_ratio_range"], 2 / share)
scaling = r["scaling"]
assert scaling["runs"] == 30 and scaling["budget"] == 1e14 and scaling["percent_budget_factor"] > 1
assert [(w["variant"], w["runs"], round(w["flops_share"], 2)) for w in scaling["variants"]] == [("mod", 10, 0.5), ("stochastic", 10, 0.5)]
for w in scaling["variants"]:
    near(w["budget_factor"] * w["flops_share"], w["worth"], 1e-9)
    holds(w["worth_range"], w["worth"])
    holds(w["budget_factor_range"], w["budget_factor"])
mod, stochastic = scaling["variants"]
assert mod["budget_factor"] > 1 > stochastic["budget_factor"]
for kind, loss in (("plain", 1.4), ("mod", 1.372), ("stochastic", 1.421)):
    near(r["laws"][kind]["exponent"], -0.05, 0.02)
    near(r["laws"][kind]["factor"], loss * 1e13 ** 0.05, 0.04)
PY
check "in words too" sh -c "$fathom isoflop --out '$work/known' --report >'$work/out' && grep -q 'mod  *1e+14  against plain -2.0. % .*the plain optimum.s loss at 0.3.. x its forward FLOPs .0.*, 3... x its tokens/s .[23]' '$work/out' && grep -q 'never reaches' '$work/out'"
check "with what a parameter is worth" sh -c "grep -q '^mod  *w .* as plain with [1-9].*x the budget .' '$work/out' && grep -q 'What a parameter is worth' '$work/known/report.html'"
check "and on the page" sh -c "grep -q 'never reaches it' '$work/known/report.html' && grep -q -- '-2.0. % .-' '$work/known/report.html'"
python3 - "$work/known/runs" <<'PY'
import json, math, os, sys
for width in (16, 32, 48, 64, 80):  # with a slope the optimum lies below the larger three, which stay
    path = f"{sys.argv[1]}/stochastic-{width}-1e+14-1.json"
    run = json.load(open(path))
    run["loss_causal"] += 0.1 * math.log(run["size"])
    os.remove(path) if width < 48 else json.dump(run, open(path, "w"))
PY
echo '{"shapes": [{"variant": "mod", "width": 16, "ms_per_step": 1, "tokens_per_s": 1}]}' >"$work/known/speeds.json"
check "a speed that was not timed is not told" sh -c "$fathom isoflop --out '$work/known' --report >'$work/out' && grep -q 'mod .*its forward FLOPs .*whose speed was not timed' '$work/out' && ! grep -qi 'nan' '$work/out'"
check "nor on the page" sh -c "grep -q 'not timed' '$work/known/report.html' && ! grep -q '>[+-]*nan' '$work/known/report.html'"
rm "$work/known/speeds.json"
check "an optimum below the sizes is not known" sh -c "$fathom isoflop --out '$work/known' --report >'$work/out' && grep -q 'stochastic  *1e+14  no optimum: below the sizes trained' '$work/out'"
check "nor in the files" python3 -c "import json; r = json.load(open('$work/known/results.json')); assert [o['causal'] for o in r['optima'] if o['variant'] == 'stochastic' and o['budget'] == 1e14] == [None]"
sed -i 's/"loss_causal": [0-9.]*/"loss_causal": null/; s/"loss": [0-9.]*/"loss": null/' "$work"/known/runs/mod-*-1e+14-1.json
check "runs that diverged are told apart" sh -c "$fathom isoflop --out '$work/known' --report >'$work/out' && grep -q 'mod  *1e+14  no optimum: fewer than three sizes have a loss' '$work/out'"
printf '#!/bin/sh\nexit 1\n' >"$work/gnuplot" && chmod +x "$work/gnuplot"
check "a gnuplot that fails leaves no old pictures" sh -c "PATH='$work':\$PATH $fathom isoflop --out '$work/known' --report >'$work/out' && grep -q 'not here or failed' '$work/out' && ! ls '$work/known/plots' | grep -v gp\$"

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

# Trained to its end by a process that could not write the result: the next one writes it, without a time that it has not measured.
late="$study --budget 1e10 --sizes 16 --variants plain --out $work/late"
mkdir -p "$work/late/runs/plain-16-1e+10-1.json.tmp"
refuses "a result that cannot be written" 1 "plain-16-1e+10-1.json" sh -c "$late"
rmdir "$work/late/runs/plain-16-1e+10-1.json.tmp"
check "it is written later" sh -c "$late >/dev/null 2>&1"
check "with its loss, and no time" python3 - "$work" <<'PY'
import json, sys
late, study = (json.load(open(f"{sys.argv[1]}/{d}/runs/plain-16-1e+10-1.json")) for d in ("late", "study"))
assert late["loss"] == study["loss"] and late["ms_per_step"] is None and late["tokens_per_s"] is None and study["ms_per_step"] > 0
PY

# Another vocabulary: the head's FLOPs count, and a token is as many bytes as the tokenizer makes of it. Text and its shards are one study.
bpe="$study --budget 1e10 --sizes 16 --out $work/bpe --tokenizer $work/bpe.json"
check "a tokenizer is learnt" "$fathom" tokenizer train --vocab 300 --data "$work/text.txt" --out "$work/bpe.json"
check "a study of its tokens" sh -c "$bpe >/dev/null 2>&1"
check "counts the head's FLOPs and the tokens' bytes" python3 - "$work" <<'PY'
import json, sys
def run(study, kind):
    return json.load(open(f"{sys.argv[1]}/{study}/runs/{kind}-16-1e+10-1.json"))
for kind in ("plain", "mod"):
    assert run("study", kind)["heldout_bytes_per_token"] == 1
    assert 1.2 < run("bpe", kind)["heldout_bytes_per_token"] < 4
    assert run("bpe", kind)["forward_flops_per_token"] - run("study", kind)["forward_flops_per_token"] == 2 * 16 * (300 - 256)
    assert abs(run("bpe", kind)["flops"] / 1e10 - 1) < 0.01
PY
refuses "runs of another tokenizer in the folder" 1 "not this study's" sh -c "$study --budget 1e10 --sizes 16 --out '$work/bpe'"
refuses "a tokenizer that is missing" 1 "$work/none.json" sh -c "$study --tokenizer '$work/none.json' --out '$work/new'"
check "shards are made" "$fathom" tokenize --data "$work/text.txt" --tokenizer "$work/bpe.json" --out "$work/shards" --threads 1
check "a study of shards" sh -c "$fathom isoflop --data '$work/shards' --tokenizer '$work/shards' --seq-len 32 --batch 2 --threads 1 --budget 3e9 --sizes 16 --variants mod --out '$work/sharded'"

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
