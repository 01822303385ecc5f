# The command line on good and on bad input: JSON keys, exit codes, one line that names the thing, nothing on disk harmed.
. "$(dirname "$0")/../tap.sh"

awk 'BEGIN { for (i = 0; i < 600; i++) print "line " i " of a text that says little, " i * 7 % 13 " times" }' >"$work/text.txt"
shape="--layers 2 --dim 32 --heads 2 --ffn 64 --seq-len 32 --batch 4 --threads 1"
mod="--mod topk --mod-capacity 0.25"

"$fathom" train --data "$work/text.txt" --out "$work/run" --steps 12 --json $shape $mod >"$work/train.json" 2>"$work/err"
check "train" test $? -eq 0
for key in steps tokens flops train_loss eval_loss eval_loss_causal tokens_per_s ms_per_step params; do
    check "train --json has $key" test -n "$(field "$work/train.json" $key)"
done
check "train --json is one line" test "$(wc -l <"$work/train.json")" -eq 1
for file in config.json model.safetensors tokenizer.json generation_config.json log.jsonl trainer/state.json trainer/optimizer.safetensors; do
    check "run directory has $file" test -s "$work/run/$file"
done
check "log.jsonl shows router_accuracy" grep -q '"router_accuracy": 0\.' "$work/run/log.jsonl"
for routing in topk causal; do
    "$fathom" eval "$work/run" --data "$work/text.txt" --routing $routing --json >"$work/eval.json" 2>/dev/null
    for key in loss perplexity bits_per_byte tokens routing routed_fraction forward_flops_per_token; do
        check "eval --routing $routing has $key" test -n "$(field "$work/eval.json" $key)"
    done
    check "eval says its routing" test "$(field "$work/eval.json" routing)" = $routing
done
"$fathom" generate "$work/run" --prompt "line " --max-tokens 12 --json >"$work/gen.json" 2>/dev/null
for key in tokens tokens_per_s prefill_tokens_per_s routed_fraction kv_bytes; do
    check "generate --json has $key" test -n "$(field "$work/gen.json" $key)"
done
check "generate --json has text" grep -q '"text"' "$work/gen.json"
"$fathom" generate "$work/run" --prompt "0123456789" --json >"$work/gen.json" 2>"$work/err"
check "a text ends at the model's length" test "$(field "$work/gen.json" tokens)" = 23
check "and that is said" grep -q "^fathom: .*the model's length, 32 tokens" "$work/err"
printf 'line 1\n\nline 22\r\nline 333\n' >"$work/prompts.txt"
"$fathom" generate "$work/run" --prompts "$work/prompts.txt" --max-tokens 9 --temperature 0 >"$work/batch.out" 2>/dev/null
check "generate --prompts answers every line" test "$(wc -l <"$work/batch.out")" -eq 3
for line in 1 2 3; do
    prompt=$(tr -d '\r' <"$work/prompts.txt" | grep . | sed -n "${line}p")
    "$fathom" generate "$work/run" --prompt "$prompt" --max-tokens 9 --temperature 0 --json >"$work/gen.json" 2>/dev/null
    check "prompt $line of many as by itself" test "$(sed -n "${line}p" "$work/batch.out" | sed 's/.*"text": \(.*\), "prompt_tokens.*/\1/')" = \
        "$(sed 's/.*"text": \(.*\), "tokens": .*/\1/' "$work/gen.json")"
done
check "their numbers are their lines'" test "$(sed 's/.*"index": \([0-9]*\).*/\1/' "$work/batch.out" | tr '\n' ' ')" = "0 2 3 "
cp "$work/batch.out" "$work/unmarked.out"
printf '\357\273\277' | cat - "$work/prompts.txt" >"$work/marked.txt"
"$fathom" generate "$work/run" --prompts "$work/marked.txt" --max-tokens 9 --temperature 0 >"$work/batch.out" 2>/dev/null
check "a byte order mark is not part of the first prompt" cmp "$work/unmarked.out" "$work/batch.out"
printf '\357\273\277{"prompt": "a"}\n"b"\n{"other": 1}\n' >"$work/prompts.jsonl"
"$fathom" generate "$work/run" --prompts "$work/prompts.jsonl" --max-tokens 3 >"$work/batch.out" 2>/dev/null
check "a prompt that is none fails by itself" test $? -eq 1 -a "$(grep -c '"text"' "$work/batch.out")" -eq 2 -a "$(grep -c ':3: must be' "$work/batch.out")" -eq 1
check "same seed, same text" test "$("$fathom" generate "$work/run" --prompt a --max-tokens 20 --seed 3 2>/dev/null | cksum)" = \
    "$("$fathom" generate "$work/run" --prompt a --max-tokens 20 --seed 3 2>/dev/null | cksum)"
"$fathom" flops "$work/run" --json >"$work/flops.json"
for key in forward_flops_per_token vanilla_forward_flops_per_token ratio params; do
    check "flops --json has $key" test -n "$(field "$work/flops.json" $key)"
done
routed() { "$fathom" flops --layers 9 --dim 32 --seq-len 1000 "$@" | awk '$2 == "routed" { printf "%s ", $3 }'; }
check "capacities one by one" test "$(routed --mod topk --mod-capacity 0.5,0.25,0.2,0.1)" = "500/1000 250/1000 200/1000 100/1000 "
check "linear capacities" test "$(routed --mod topk --mod-capacity 0.5,0.2 --mod-capacity-schedule linear)" = "500/1000 400/1000 300/1000 200/1000 "
check "cosine capacities" test "$(routed --mod topk --mod-capacity 0.5,0.1 --mod-capacity-schedule cosine)" = "500/1000 400/1000 200/1000 100/1000 "
check "constant capacities" test "$(routed --mod topk --mod-capacity 0.3 --mod-capacity-schedule constant --mod-layers 0,8)" = "300/1000 300/1000 "
"$fathom" bench gemm --json >"$work/gemm.json"
check "bench gemm has gemm_gflops" test -n "$(field "$work/gemm.json" gemm_gflops)"
"$fathom" bench train --steps 2 --json $shape >"$work/bench.json" 2>/dev/null
for key in tokens_per_s ms_per_step gflops gemm_gflops utilisation; do
    check "bench train has $key" test -n "$(field "$work/bench.json" $key)"
done
"$fathom" bench train --steps 1 --dtype bf16 --recompute --compare-mod --profile --json $shape >"$work/bench.json" 2>"$work/err"
for key in step_ratio flops_ratio utilisation; do
    check "bench train --compare-mod has $key" test -n "$(field "$work/bench.json" $key)"
done
check "bench --profile lists operations" grep -q '^adamw ' "$work/err"
for what in decode prefill; do
    for weights in fp32 bf16 q8; do
        "$fathom" bench $what --tokens 20 --rounds 1 --weights $weights --compare-mod --json $shape >"$work/bench.json" 2>/dev/null
        for key in tokens_per_s utilisation speed_ratio; do
            check "bench $what --weights $weights has $key" test -n "$(field "$work/bench.json" $key)"
        done
    done
done
"$fathom" train --data "$work/text.txt" --out "$work/choice" --steps 12 --log-every 1 $shape --mod token-choice --mod-capacity 0.25 >/dev/null 2>&1
check "token-choice trains and logs what is dropped" grep -q '"dropped": 0\.' "$work/choice/log.jsonl"
check "token-choice generates" "$fathom" generate "$work/choice" --prompt "line " --max-tokens 5
cp -r "$work/run" "$work/dial"
"$fathom" calibrate "$work/dial" --data "$work/text.txt" --tokens 4096 --json >"$work/calibrate.json" 2>/dev/null
check "calibrate --json has points" grep -q '"routed_fraction"' "$work/calibrate.json"
"$fathom" eval "$work/dial" --data "$work/text.txt" --budget 0.5 --json >"$work/eval.json" 2>/dev/null
check "eval --budget routes that share" awk "BEGIN { exit !($(field "$work/eval.json" routed_fraction) > 0.45 && $(field "$work/eval.json" routed_fraction) < 0.55) }"
check "generate --budget" "$fathom" generate "$work/dial" --prompt "line " --max-tokens 5 --budget 0.06
check "a calibrated model is still read" "$fathom" eval "$work/dial" --data "$work/text.txt" --routing topk
"$fathom" inspect "$work/run" --text "line 7 of a text" --json >"$work/inspect.json" 2>/dev/null
for key in tokens layers loss mean_loss routing; do
    check "inspect --json has $key" grep -q "\"$key\":" "$work/inspect.json"
done
check "inspect names a block's tokens and weights" grep -q '{"layer": 1, "selected": \[.*\], "weights": \[.*\]}' "$work/inspect.json"
printf 'a\033[31m b\n\377' >"$work/control.txt"
"$fathom" inspect "$work/run" --file "$work/control.txt" --routing topk --width 40 >"$work/map" 2>/dev/null
check "inspect draws a row a block" grep -q '^block  1 [#.]*#[#.]*$' "$work/map"
check "what a text holds does not reach the terminal as a command" sh -c "! LC_ALL=C grep -q '[[:cntrl:]]' '$work/map'"
"$fathom" inspect "$work/run" --text "$(head -c 500 "$work/text.txt")" --width 40 >"$work/map" 2>/dev/null
check "inspect wraps to the width" awk '/^block.* [#.]+$/ { if (length($0) > 40) bad = 1; n++ } END { exit bad || n != 17 }' "$work/map"
check "inspect --color always is 24-bit" sh -c "'$fathom' inspect '$work/run' --text 'line 7 of' --routing topk --color always | grep -q '48;2;'"
for routing in topk causal; do
    "$fathom" inspect "$work/run" --stats --data "$work/text.txt" --tokens 512 --routing $routing --json >"$work/stats.json" 2>/dev/null
    for key in routing tokens mean_loss routed_fraction layers classes ids rule_accuracy agreement; do
        check "inspect --stats --routing $routing --json has $key" grep -q "\"$key\":" "$work/stats.json"
    done
    check "inspect --stats --routing $routing" "$fathom" inspect "$work/run" --stats --data "$work/text.txt" --tokens 100 --routing $routing
done
check "inspect --budget" "$fathom" inspect "$work/dial" --text "line 7" --budget 0.3
for type in bf16 q8; do
    "$fathom" convert "$work/run" "$work/$type" --quantize $type --json >"$work/convert.json" 2>/dev/null
    check "convert --quantize $type makes it smaller" test "$(field "$work/convert.json" bytes)" -lt "$(field "$work/convert.json" source_bytes)"
    check "a $type model generates" "$fathom" generate "$work/$type" --prompt "line " --max-tokens 5
    check "a $type model evaluates in both routings" sh -c "'$fathom' eval '$work/$type' --data '$work/text.txt' && '$fathom' eval '$work/$type' --data '$work/text.txt' --routing topk"
done
check "convert as it is" "$fathom" convert "$work/run" "$work/copy"
for file in model.safetensors config.json tokenizer.json generation_config.json; do
    check "convert leaves $file as it is" cmp "$work/run/$file" "$work/copy/$file"
done
rm "$work/copy/tokenizer.json"
"$fathom" convert "$work/copy" "$work/untold" >"$work/told" 2>&1
check "convert without a tokenizer says so" grep -q 'no tokenizer.json' "$work/told"
"$fathom" train --data "$work/text.txt" --out "$work/bf16run" --steps 4 --dtype bf16 --recompute $shape $mod >/dev/null 2>"$work/err"
check "train --dtype bf16 --recompute" test $? -eq 0
check "memory is printed before training" grep -q '^memory .* parameters .* activations' "$work/err"
for command in train eval generate flops bench convert; do
    check "$command --help" sh -c "'$fathom' $command --help | grep -q '^usage: fathom $command'"
done
printf '{"steps": 3, "layers": 2, "dim": 32, "heads": 2, "seq-len": 32, "batch": 2, "data": ["%s"]}' "$work/text.txt" >"$work/options.json"
"$fathom" train --config "$work/options.json" --steps 2 --out "$work/configured" --json >"$work/configured.json" 2>/dev/null
check "--config holds options and the command line wins" test "$(field "$work/configured.json" steps)" = 2
printf '\377\376\200 not UTF-8 \300\300' >"$work/bytes.txt"
for i in 1 2 3 4 5; do cat "$work/bytes.txt" "$work/bytes.txt" >"$work/more" && cp "$work/more" "$work/bytes.txt"; done
check "bytes that are not UTF-8 train" "$fathom" train --data "$work/bytes.txt" --out "$work/bytes" --steps 2 $shape
check "a held-out file of its own" "$fathom" train --data "$work/text.txt" --val-data "$work/bytes.txt" --out "$work/val" --steps 2 $shape

printf 'A text shorter than a sequence.' >"$work/one.txt"
for routing in topk causal; do
    for length in 30 32; do
        "$fathom" eval "$work/run" --data "$work/one.txt" --routing $routing --seq-len $length >"$work/eval.$length"
    done
    check "$routing: rows behind the end of a text are not routed" cmp "$work/eval.30" "$work/eval.32"
done
"$fathom" eval "$work/run" --data "$work/text.txt" --batch 1 >"$work/eval.1"
"$fathom" eval "$work/run" --data "$work/text.txt" --batch 7 >"$work/eval.7"
check "eval is the same in batches of 1 and 7" cmp "$work/eval.1" "$work/eval.7"

# A byte that the model has no id for ends a run; the steps that were made are kept.
head -c 200000 /dev/zero >"$work/ids.bin"
{ head -c 10000 /dev/zero; printf '\054\001'; cat "$work/ids.bin"; } >"$work/bad.bin"
"$fathom" train --data "$work/ids.bin" --val-data "$work/bad.bin" --data-format nanogpt --vocab 256 --out "$work/stopped" --steps 6 --eval-tokens 0 $shape >/dev/null 2>"$work/err"
check "held-out tokens that are none end a run" sh -c "test $? -eq 1 && grep -q 'token 5000: id 300' '$work/err'"
check "which has its steps" sh -c "grep -q '\"step\": 6' '$work/stopped/trainer/state.json' && test -s '$work/stopped/model.safetensors'"

sums() { (cd "$work/run" && find . -type f | sort | xargs cksum); }
before=$(sums)
train="$fathom train --out $work/new $shape --steps 5"
refuses "convert of a reduced model" 1 "q8: is stored in q8" "$fathom" convert "$work/q8" "$work/again" --quantize bf16
mkdir "$work/shards" && echo '{}' >"$work/shards/model.safetensors.index.json" && echo '{}' >"$work/shards/config.json"
refuses "training onto a model of several files" 1 "already holds a model" "$fathom" train --data "$work/text.txt" --out "$work/shards" --steps 1 $shape
check "which is left as it was" test "$(cat "$work/shards/config.json")" = '{}'
refuses "flops of another shape than the model's" 2 "--layers, --mod" "$fathom" flops "$work/run" --layers 4
refuses "a budget below a step" 1 "flops: 10000: less than half a step" "$fathom" train --data "$work/text.txt" --out "$work/new" --flops 1e4 $shape
refuses "resuming what has not begun" 2 "has no checkpoint" "$fathom" train --data "$work/text.txt" --out "$work/new" --resume $shape
refuses "resuming without data" 2 "does not say where" "$fathom" train --out "$work/run" --resume
refuses "experts that take tokens by chance" 2 "--expert-router" "$fathom" bench decode --experts 4 --experts-per-token 1 --compare-mod $shape
refuses "and in serving" 2 "--expert-router" "$fathom" bench serve --experts 4 --experts-per-token 1 --mod topk $shape
refuses "convert onto a model" 1 "already holds a model" "$fathom" convert "$work/run" "$work/q8" --quantize q8
for command in "generate --prompt a" "eval --data $work/text.txt" "inspect --text a" "calibrate --data $work/text.txt"; do
    # shellcheck disable=SC2086
    refuses "${command%% *} of a model without a tokenizer" 1 "untold/tokenizer.json" "$fathom" ${command%% *} "$work/untold" ${command#* }
done
"$fathom" train --data "$work/text.txt" --out "$work/dense" --steps 2 $shape >/dev/null 2>&1
refuses "convert to a routed model without text" 1 "--data: needed with --mod topk" "$fathom" convert "$work/dense" "$work/again" --mod topk
refuses "convert of text without routers" 2 "--data: only new routers" "$fathom" convert "$work/dense" "$work/again" --data "$work/text.txt"
refuses "convert with text that no router reads" 1 "--data: $work/text.txt: these routers" "$fathom" convert "$work/dense" "$work/again" --mod stochastic --data "$work/text.txt"
refuses "convert with a format of no data" 2 "--data-format: nanogpt: needs --data" "$fathom" convert "$work/dense" "$work/again" --data-format nanogpt
check "convert to random routing" "$fathom" convert "$work/dense" "$work/random" --mod stochastic --quantize q8
check "the converted model runs" "$fathom" eval "$work/random" --data "$work/text.txt"
cp -r "$work/dense" "$work/odd"
rm "$work/odd/tokenizer.json"
mkdir "$work/odd/tokenizer.json"
for more in "" "--mod stochastic"; do
    # shellcheck disable=SC2086
    refuses "convert $more that does not come to its end" 1 "odd/tokenizer.json" "$fathom" convert "$work/odd" "$work/early" $more
    check "leaves no model behind" test -e "$work/early/config.json" -a ! -e "$work/early/model.safetensors"
    # shellcheck disable=SC2086
    check "and can be done again" "$fathom" convert "$work/dense" "$work/early" $more
    check "with the tokenizer" cmp "$work/dense/tokenizer.json" "$work/early/tokenizer.json"
    check "and the source's generation_config.json" cmp "$work/dense/generation_config.json" "$work/early/generation_config.json"
    rm -r "$work/early"
done
cp -r "$work/dense" "$work/wide"
"$fathom" tokenizer train --vocab 300 --data "$work/text.txt" --out "$work/wide/tokenizer.json" >/dev/null 2>&1
refuses "convert with more ids than embeddings" 1 "its tokenizer has 300 ids" "$fathom" convert "$work/wide" "$work/again" --mod topk --data "$work/text.txt"
refuses "convert of a routed model to another" 1 "has routers or experts already" "$fathom" convert "$work/random" "$work/again" --mod stochastic
refuses "convert to an unknown kind" 2 "--quantize: q3" "$fathom" convert "$work/run" "$work/again" --quantize q3
refuses "training that cannot fit" 1 "recompute" $train --data "$work/text.txt" --batch 1000000 --seq-len 4096
refuses "unknown dtype" 2 "--dtype: fp8" $train --data "$work/text.txt" --dtype fp8
refuses "unknown weights" 2 "--weights: q3" "$fathom" bench decode --weights q3
refuses "unknown command" 2 "frobnicate" "$fathom" frobnicate
refuses "unknown flag" 2 "--bogus" $train --data "$work/text.txt" --bogus 1
refuses "unknown flag in --config" 2 "bogus" sh -c "echo '{\"bogus\": 1}' >$work/c.json; exec $train --config $work/c.json"
refuses "a number for a text in --config" 2 "mod-capacity: must be a text" sh -c "echo '{\"mod-capacity\": 0.25}' >$work/c.json; exec $train --config $work/c.json"
refuses "no such --config" 1 "$work/none.json: No such file" $train --config "$work/none.json"
refuses "flag without value" 2 "--lr" $train --data "$work/text.txt" --lr
refuses "not a number" 2 "--lr: fast" $train --data "$work/text.txt" --lr fast
refuses "no data" 2 "--data" $train
refuses "no out" 2 "--out" "$fathom" train --data "$work/text.txt" --steps 5
refuses "no budget" 2 "steps" "$fathom" train --data "$work/text.txt" --out "$work/new"
refuses "missing file" 1 "$work/nothing.txt" $train --data "$work/nothing.txt"
: >"$work/empty.txt"
refuses "empty corpus" 1 "$work/empty.txt" $train --data "$work/empty.txt"
mkdir "$work/empty"
refuses "empty folder" 1 "$work/empty" $train --data "$work/empty"
printf 'short' >"$work/short.txt"
refuses "corpus shorter than a sequence" 1 "5 " $train --data "$work/short.txt" --val-fraction 0
refuses "dim not divisible by heads" 2 "32 is not divisible by num_attention_heads 3" $train --data "$work/text.txt" --heads 3
for capacity in 0 -0.5 1.5 nan x; do
    refuses "capacity $capacity" 2 "--mod-capacity: $capacity" $train --data "$work/text.txt" --mod topk --mod-capacity $capacity
done
refuses "unknown router" 2 "--mod: magic" $train --data "$work/text.txt" --mod magic
refuses "routed block out of range" 2 "--mod-layers: 7" $train --data "$work/text.txt" --mod topk --mod-layers 7
refuses "learning rate" 2 "lr" $train --data "$work/text.txt" --lr -1
refuses "a run is not overwritten" 1 "$work/run" "$fathom" train --data "$work/text.txt" --out "$work/run" --steps 5 $shape $mod
refuses "resume with another shape" 1 "config.json" "$fathom" train --data "$work/text.txt" --out "$work/run" --resume --steps 12 $shape
refuses "resume with another learning rate" 1 "--lr: 0.5, the run's own is 0.001" "$fathom" train --data "$work/text.txt" --out "$work/run" --resume $shape $mod --lr 0.5
refuses "resume with another precision" 1 "--dtype: bf16, the run's own is fp32" "$fathom" train --data "$work/text.txt" --out "$work/run" --resume --dtype bf16
refuses "resume with another warm-up" 1 "--warmup: 3, the run's own is its default" "$fathom" train --data "$work/text.txt" --out "$work/run" --resume --warmup 3
refuses "resume with another kind of budget" 1 "--flops 1000000000, the run's own is --steps 12" "$fathom" train --data "$work/text.txt" --out "$work/run" \
    --resume --flops 1e9
cp -r "$work/run" "$work/state"
state=$work/state/trainer/state.json
for edit in 's/"format": 1/"format": 2/=format: 2' 's/"tokens": [0-9]*/"tokens": 4611686018427387904/=tokens: 4611686018427387904' \
    's/"flops": \([0-9.]*\)e*[+0-9]*,$/"flops": -1.0,/=flops: -1' 's/"skipped": 0/"skipped": 99/=skipped: 99'; do
    sed "${edit%%=*}" "$work/run/trainer/state.json" >"$state"
    refuses "state.json with ${edit##*=}" 1 "trainer/state.json: ${edit##*=}" "$fathom" train --data "$work/text.txt" --out "$work/state" --resume
done
rm "$state"
refuses "no state.json" 1 "trainer/state.json: No such file" "$fathom" train --data "$work/text.txt" --out "$work/state" --resume
mkfifo "$state"
refuses "a pipe as state.json" 1 "trainer/state.json: not a regular file" timeout 10 "$fathom" train --data "$work/text.txt" --out "$work/state" --resume
rm "$state"
mkfifo "$work/pipe.json"
refuses "a pipe as --config" 1 "pipe.json: not a regular file" timeout 10 "$fathom" train --config "$work/pipe.json"
printf '\357\273\277{"steps": 0}' >"$work/marked.json"
refuses "a byte order mark before --config's object is skipped" 2 "--out" "$fathom" train --config "$work/marked.json"
refuses "resume with other data" 1 "data" "$fathom" train --data "$work/bytes.txt" --out "$work/run" --resume $shape $mod
refuses "folder under a file" 1 "$work/text.txt" "$fathom" train --data "$work/text.txt" --out "$work/text.txt/run" --steps 2 $shape
refuses "unwritable folder" 1 "/proc/fathom" "$fathom" train --data "$work/text.txt" --out /proc/fathom --steps 2 $shape
refuses "eval without data" 2 "--data" "$fathom" eval "$work/run"
refuses "eval of nothing" 1 "$work/none" "$fathom" eval "$work/none" --data "$work/text.txt"
refuses "unknown routing" 2 "--routing: best" "$fathom" eval "$work/run" --data "$work/text.txt" --routing best
refuses "prompt too long" 1 "at most 32" "$fathom" generate "$work/run" --prompt "$(cat "$work/short.txt" "$work/options.json")" --max-tokens 9
refuses "a prompt and prompts" 2 "--prompts" "$fathom" generate "$work/run" --prompt a --prompts "$work/prompts.txt"
refuses "no such prompts" 1 "$work/none" "$fathom" generate "$work/run" --prompts "$work/none"
for active in 0 4097 4611686018427387904; do
    refuses "$active active" 2 "--max-active: $active" "$fathom" generate "$work/run" --prompts "$work/prompts.txt" --max-active $active
done
refuses "empty prompt" 1 "prompt" "$fathom" generate "$work/run" --prompt ""
refuses "temperature" 1 "temperature" "$fathom" generate "$work/run" --prompt a --max-tokens 4 --temperature -1
refuses "presence penalty" 1 "presence_penalty" "$fathom" generate "$work/run" --prompt a --max-tokens 4 --presence-penalty 3
refuses "frequency penalty" 1 "frequency_penalty" "$fathom" generate "$work/run" --prompt a --max-tokens 4 --frequency-penalty -3

# Hostile model files, each a copy of the run with one thing broken.
broken() { rm -rf "$work/bad" && cp -r "$work/run" "$work/bad"; }
hostile() { refuses "$1" 1 "$2" "$fathom" eval "$work/bad" --data "$work/text.txt"; }
broken && head -c 5000 "$work/run/model.safetensors" >"$work/bad/model.safetensors" && hostile "truncated model" "model.safetensors"
broken && printf '\377\377\377\377\377\377\377\177{}' >"$work/bad/model.safetensors" && hostile "header length beyond the file" "model.safetensors"
broken && printf '\000\000\200\014\000\000\000\000{' >"$work/bad/model.safetensors" &&
    truncate -s 210000000 "$work/bad/model.safetensors" && hostile "200 MB header" "model.safetensors"
broken && rm "$work/bad/model.safetensors" && hostile "model without values" "model.safetensors"
broken && sed -i 's/"hidden_size": 32/"hidden_size": "32"/' "$work/bad/config.json" && hostile "config.json with a wrong type" "hidden_size"
broken && sed -i 's/"hidden_size": 32/"hidden_size": 64/' "$work/bad/config.json" && hostile "tensors of another shape" "embed_tokens"
broken && sed -i 's/"capacity": 0.25/"capacity": 7/' "$work/bad/config.json" && hostile "capacity out of range in config.json" "capacity"
broken && echo '{' >"$work/bad/config.json" && hostile "config.json that is not JSON" "config.json"
broken && echo '{}' >"$work/bad/tokenizer.json" && hostile "tokenizer.json without a model" "tokenizer.json"
broken && echo '{"format": 1}' >"$work/bad/trainer/state.json" &&
    refuses "state.json without its fields" 1 "state.json" "$fathom" train --data "$work/text.txt" --out "$work/bad" --resume $shape $mod
refuses "budget of a model that is not calibrated" 1 "calibrate" "$fathom" eval "$work/run" --data "$work/text.txt" --budget 0.1
refuses "budget outside what was calibrated" 1 "budget" "$fathom" generate "$work/dial" --prompt a --max-tokens 5 --budget 0.95
refuses "budget of top-k routing" 2 "--budget" "$fathom" eval "$work/dial" --data "$work/text.txt" --budget 0.1 --routing topk
"$fathom" train --data "$work/text.txt" --out "$work/plain" --steps 2 $shape >/dev/null 2>&1
check "a plain model's loss is one, and nothing is routed" sh -c "'$fathom' eval '$work/plain' --data '$work/text.txt' >'$work/out' && ! grep -q rout '$work/out'"
refuses "calibrating a plain model" 1 "plain" "$fathom" calibrate "$work/plain" --data "$work/text.txt"
refuses "calibrating without text" 2 "--data" "$fathom" calibrate "$work/dial"
refuses "token-choice with a predictor" 2 "token-choice" "$fathom" flops --mod token-choice --mod-causal predictor
refuses "token-choice at full capacity" 2 "token-choice" "$fathom" flops --mod token-choice --mod-capacity 1
refuses "choice without token-choice" 2 "choice" "$fathom" flops --mod topk --mod-causal choice
refuses "unknown capacity schedule" 2 "--mod-capacity-schedule" "$fathom" flops --mod topk --mod-capacity-schedule steep
refuses "schedule with one capacity" 2 "--mod-capacity" "$fathom" flops --mod topk --mod-capacity-schedule linear
refuses "schedule out of range" 2 "--mod-capacity" "$fathom" flops --mod topk --mod-capacity-schedule cosine --mod-capacity 0.5,1.5
printf '{"layers": 3}' >"$work/one.json"
refuses "a second --config" 2 "--config: $work/one.json: given twice" "$fathom" flops --config "$work/one.json" --layers 2 --config="$work/one.json"
for threads in -1 99999999999; do
    refuses "eval --threads $threads" 2 "--threads: $threads: must be" "$fathom" eval "$work/run" --data "$work/text.txt" --threads $threads
    refuses "generate --threads $threads" 2 "--threads: $threads: must be" "$fathom" generate "$work/run" --prompt a --threads $threads
    refuses "inspect --threads $threads" 2 "--threads: $threads: must be" "$fathom" inspect "$work/run" --text a --threads $threads
    refuses "calibrate --threads $threads" 2 "--threads: $threads: must be" "$fathom" calibrate "$work/run" --data "$work/text.txt" --threads $threads
    refuses "bench --threads $threads" 2 "--threads: $threads: must be" "$fathom" bench gemm --threads $threads
done
refuses "shape options of bench gemm" 2 "bench: gemm" "$fathom" bench gemm --dim 64
refuses "no block routed" 2 "--mod-every: 9: no block is routed" "$fathom" flops --mod topk --mod-every 9 --layers 2
refuses "an empty list of routed blocks" 2 "--mod-layers" "$fathom" flops --mod topk --mod-layers ""
refuses "a predictor's width without one" 2 "--mod-predictor-hidden: 3" "$fathom" flops --mod-predictor-hidden 3
refuses "a predictor's width beside another rule" 2 "--mod-predictor-hidden: 3" "$fathom" flops --mod topk --mod-causal aux --mod-predictor-hidden 3
check "a predictor's width of experts" sh -c "'$fathom' flops --experts 4 --experts-per-token 1 --expert-router expert-choice --mod-predictor-hidden 3 >/dev/null"
refuses "flops --batch 0" 2 "--batch: 0" "$fathom" flops --batch 0
refuses "an empty text to inspect" 1 "--text: no tokens" "$fathom" inspect "$work/run" --text ""
refuses "an empty file to inspect" 1 "empty.txt: no tokens" "$fathom" inspect "$work/run" --file "$work/empty.txt"
refuses "capacity list of the wrong length" 2 "--mod-capacity" "$fathom" flops --layers 8 --mod topk --mod-capacity 0.5,0.25
check "a full stdout is an error" sh -c "! '$fathom' inspect '$work/run' --text 'line 7' >/dev/full 2>/dev/null"
cp -r "$work/dial" "$work/onward"
sed -i 's/"step": 12,/"step": 11,/; s/"updates": 12,/"updates": 11,/' "$work/onward/trainer/state.json"
"$fathom" train --data "$work/text.txt" --out "$work/onward" --resume >/dev/null 2>&1
check "training on drops the calibration" sh -c "grep -q calibration '$work/dial/config.json' && ! grep -q calibration '$work/onward/config.json'"
refuses "inspecting a plain model" 1 "plain" "$fathom" inspect "$work/plain" --text a
refuses "inspecting nothing" 2 "--text" "$fathom" inspect "$work/run"
refuses "inspecting two texts" 2 "--text" "$fathom" inspect "$work/run" --text a --file "$work/text.txt"
refuses "statistics without text" 2 "--data" "$fathom" inspect "$work/run" --stats
refuses "text of statistics without --stats" 2 "--data" "$fathom" inspect "$work/run" --text a --data "$work/text.txt"
refuses "inspecting an empty text" 1 "no tokens" "$fathom" inspect "$work/run" --text ""
refuses "inspect's width" 2 "--width" "$fathom" inspect "$work/run" --text a --width 3
check "nothing on disk was harmed" test "$(sums)" = "$before"
check "refused runs leave no model" test ! -e "$work/new/model.safetensors"

# A disk that fills up: files may not pass 20 blocks of 512 bytes, and the signal for it is ignored, so that writes fail.
"$fathom" train --data "$work/text.txt" --out "$work/full" --steps 4 $shape $mod >/dev/null 2>&1
full=$(cksum <"$work/full/model.safetensors")
"$fathom" train --data "$work/text.txt" --out "$work/half" --steps 400 --save-every 1 $shape $mod >/dev/null 2>&1 &
child=$!
while [ ! -e "$work/half/trainer/state.json" ]; do sleep 0.05; done
kill -9 $child
wait $child 2>/dev/null
# The checkpoint may be one step ahead of the published model: killed between two renames, which resuming makes good.
half=$(cksum <"$work/half/trainer/model.safetensors")
refuses "a file that may not grow any more" 1 "cannot write" sh -c "ulimit -f 20; exec '$fathom' train --data '$work/text.txt' --out '$work/half' --resume"
check "and then: the last checkpoint is still there" test "$(cksum <"$work/half/trainer/model.safetensors")" = "$half"
check "and then: it is the model that everybody reads" test "$(cksum <"$work/half/model.safetensors")" = "$half"
check "and then: no half-written checkpoint is left" test ! -e "$work/half/trainer.new"
check "and then: resuming works once there is room" "$fathom" train --data "$work/text.txt" --out "$work/half" --resume --save-every 100
check "another run is untouched" test "$(cksum <"$work/full/model.safetensors")" = "$full"
if [ -w /dev/full ]; then
    "$fathom" flops --json >/dev/full 2>"$work/err"
    check "stdout that cannot be written" test $? -eq 1
    check "stdout that cannot be written is named" grep -q '^fathom: stdout' "$work/err"
fi

# What asks a run to end lets it finish the step and save. `env` undoes what a shell makes of the background.
for number in 2:INT 15:TERM 1:HUP; do
    asked=${number#*:} number=${number%:*}
    env --default-signal=INT,TERM,HUP "$fathom" train --data "$work/text.txt" --out "$work/$asked" --steps 100000 $shape >/dev/null 2>"$work/err" &
    child=$!
    while [ ! -s "$work/$asked/log.jsonl" ]; do sleep 0.05; done
    # matrix code that uses the stack pointer must never be under a handler: bit n - 1 is signal n
    caught=$(sed -n 's/^SigCgt:[[:space:]]*//p' /proc/$child/status)
    check "no handler of SIG$asked runs on the threads that compute" test $((0x$caught & 1 << (number - 1))) -eq 0
    kill -$asked $child
    wait $child
    check "SIG$asked exits with $((128 + number))" test $? -eq $((128 + number))
    check "SIG$asked leaves a checkpoint" "$fathom" eval "$work/$asked" --data "$work/text.txt"
done
# A second one ends it within a step; this step takes minutes.
env --default-signal=INT,TERM,HUP "$fathom" train --data "$work/text.txt" --out "$work/twice" --steps 9 --layers 8 --dim 512 --seq-len 256 \
    --batch 256 >/dev/null 2>&1 &
child=$!
while [ "$(awk '{ print $3 == "Z" ? 1000 : $14 + $15 }' /proc/$child/stat)" -lt 200 ]; do sleep 0.1; done
kill -TERM $child
sleep 0.3
check "SIGTERM lets a long step go on" test -d /proc/$child
kill -TERM $child
wait $child
check "a second SIGTERM ends it at once" test $? -eq 143
check "a second SIGTERM waits for no checkpoint" test ! -e "$work/twice/model.safetensors"
# As under nohup: what was ignored at the start stays ignored.
sh -c "trap '' HUP INT; exec '$fathom' train --data '$work/text.txt' --out '$work/ignored' --steps 60 $shape" >/dev/null 2>&1 &
child=$!
while [ ! -s "$work/ignored/log.jsonl" ]; do sleep 0.02; done
kill -HUP $child
kill -INT $child
wait $child
check "signals that it was started to ignore stay ignored" test $? -eq 0

# Closed descriptors: nothing lands in files that are opened after.
"$fathom" flops --json >&- 2>"$work/err"
check "closed stdout: a command that is complete succeeds" test $? -eq 0
"$fathom" train --data "$work/text.txt" --out "$work/closed" --steps 3 --tensorboard $shape <&- >&- 2>&-
check "closed stdin, stdout and stderr: training succeeds" test $? -eq 0
check "closed stderr: nothing of it in other files" sh -c "! grep -aq 'steps on\|fathom:' '$work'/closed/*tfevents* '$work'/closed/log.jsonl"
finish
