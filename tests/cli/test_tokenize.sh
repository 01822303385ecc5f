# Token shards from the command line: the same bytes on any number of threads, a killed call leaves nothing that could be taken for whole,
# training from shards is training from the text, a corpus larger than what the process may hold is mapped, foreign shards.
. "$(dirname "$0")/../tap.sh"

mkdir "$work/d"
for i in $(seq 1 60); do
    awk "BEGIN { for (i = 0; i < $i * 40; i++) print \"row \" i \" of $i: \" i * i % 97 \" and \" i * 7 % 13 }" >"$work/d/$i.txt"
done
printf 'a\000b' >"$work/d/binary"
tokenize="$fathom tokenize --data $work/d --shard-tokens 70001"

for threads in 1 2 5; do
    check "tokenize on $threads threads" sh -c "$tokenize --out '$work/s$threads' --threads $threads --json >'$work/tokenize.json'"
done
check "2 threads write the bytes of 1" diff -r "$work/s1" "$work/s2"
check "5 threads write the bytes of 1" diff -r "$work/s1" "$work/s5"
for key in tokens bytes vocab train_tokens train_shards heldout_tokens heldout_shards bytes_per_s; do
    check "tokenize --json has $key" test -n "$(field "$work/tokenize.json" $key)"
done
check "all of the text is there" test "$(field "$work/tokenize.json" tokens)" -eq "$(cat "$work"/d/*.txt | wc -c)"
check "the manifest lists every shard" test "$(grep -c '"file"' "$work/s1/manifest.json")" -eq "$(ls "$work/s1" | grep -c bin)"
check "there are several" test "$(field "$work/tokenize.json" train_shards)" -gt 10

# Killed half-way, then run again: never a manifest over half the shards.
whole=0
for shard in train-00001 train-00040 heldout-00002; do
    $tokenize --out "$work/killed" --shard-tokens 5000 --threads 2 >/dev/null 2>&1 &
    child=$!
    while [ ! -e "$work/killed.unfinished/$shard.bin" ] && kill -0 $child 2>/dev/null; do sleep 0.01; done
    kill -9 $child 2>/dev/null
    wait $child 2>/dev/null
    { [ -e "$work/killed.unfinished/$shard.bin" ] && [ ! -e "$work/killed.unfinished/manifest.json" ]; } || whole=$((whole + 1))
    [ -e "$work/killed" ] && whole=$((whole + 1))
done
check "calls that are killed half-way leave neither the folder nor a manifest" test $whole -eq 0
$tokenize --out "$work/killed" --shard-tokens 5000 --threads 2 >/dev/null 2>&1
$tokenize --out "$work/quiet" --shard-tokens 5000 --threads 1 >/dev/null 2>&1
check "run again, it is what an undisturbed call makes" diff -r "$work/killed" "$work/quiet"
check "and leaves nothing beside it" sh -c "test ! -e '$work/killed.unfinished' && test ! -e '$work/killed.unfinished.lock'"

# Two at once: one is refused, whatever the other has done so far, and what that one makes is whole.
$tokenize --out "$work/both" --shard-tokens 5000 --threads 2 >/dev/null 2>&1 &
child=$!
while [ ! -e "$work/both.unfinished/train-00001.bin" ] && kill -0 $child 2>/dev/null; do sleep 0.01; done
kill -STOP $child 2>/dev/null
refuses "a second call with the same --out" 1 "both: another process is writing it" $tokenize --out "$work/both/" --shard-tokens 5000
kill -CONT $child 2>/dev/null
wait $child
check "the first goes on undisturbed" test $? -eq 0
check "and makes what it makes alone" diff -r "$work/both" "$work/quiet"
check "nothing is left beside it" sh -c "test ! -e '$work/both.unfinished' && test ! -e '$work/both.unfinished.lock'"

shape="--layers 2 --dim 32 --heads 2 --ffn 64 --seq-len 32 --batch 4 --threads 1 --mod topk --mod-capacity 0.25"
losses() { sed 's/.*"train_loss": \([^,]*\), "eval_loss": \([^,]*\), "eval_loss_causal": \([^,]*\),.*/\1 \2 \3/' "$1"; }
"$fathom" train --data "$work/d" --out "$work/text" --steps 40 --json $shape >"$work/text.json" 2>/dev/null
"$fathom" train --data "$work/s1" --out "$work/shards" --steps 40 --json $shape >"$work/shards.json" 2>/dev/null
check "training from shards is training from text, bit for bit" test "$(losses "$work/text.json")" = "$(losses "$work/shards.json")"
check "it has a loss" test -n "$(field "$work/shards.json" train_loss)"
check "the same model" cmp "$work/text/model.safetensors" "$work/shards/model.safetensors"
check "a run on shards is taken up" "$fathom" train --data "$work/s1" --out "$work/shards" --resume
refuses "but not on other shards" 1 "data" "$fathom" train --data "$work/quiet" --out "$work/shards" --resume
"$fathom" eval "$work/text" --data "$work/s1" --json >"$work/a.json" 2>/dev/null
"$fathom" eval "$work/text" --data "$work"/s1/heldout-*.bin --json >"$work/b.json" 2>/dev/null
check "eval takes a folder's held-out shards" cmp "$work/a.json" "$work/b.json"
check "eval has bits per byte" test "$(field "$work/a.json" bits_per_byte)" != null

# A vocabulary of its own: the shards need its tokenizer.
"$fathom" tokenizer train --data "$work/d" --vocab 400 --out "$work/bpe.json" >/dev/null 2>&1
for threads in 1 2; do
    $tokenize --tokenizer "$work/bpe.json" --out "$work/bpe$threads" --threads $threads --json >"$work/bpe-counts.json" 2>/dev/null
done
check "2 threads write the bytes of 1, with a learnt vocabulary" diff -r "$work/bpe1" "$work/bpe2"
check "fewer tokens stand for the same text" test "$(field "$work/bpe-counts.json" bytes)" -eq "$(field "$work/tokenize.json" bytes)" -a \
    "$(field "$work/bpe-counts.json" tokens)" -lt "$(field "$work/tokenize.json" tokens)"
"$fathom" train --data "$work/d" --tokenizer "$work/bpe.json" --out "$work/bpetext" --steps 10 $shape >/dev/null 2>&1
"$fathom" train --data "$work/bpe1" --tokenizer "$work/bpe1" --out "$work/bpeshards" --steps 10 $shape >/dev/null 2>&1
check "the same model from text and from shards of it" cmp "$work/bpetext/model.safetensors" "$work/bpeshards/model.safetensors"
check "the tokenizer goes with it" cmp "$work/bpe1/tokenizer.json" "$work/bpeshards/tokenizer.json"
refuses "shards of another tokenizer" 1 "bpe1/manifest.json: tokenizer" "$fathom" train --data "$work/bpe1" --out "$work/new" --steps 5 $shape

# 6 GB of zeros that take no room on the disk. The peak of what the process held is far below them.
python3 - "$work" <<'PY'
import struct, sys
n = 3_000_000_000
with open(sys.argv[1] + "/huge.bin", "wb") as f:
    f.write(b"FATHOMTK" + struct.pack("<IIQQQ", 1, 2, 256, n, n))
    f.truncate(40 + 2 * n)
def llmc(name, magic, version, kind, ids):
    with open(sys.argv[1] + name, "wb") as f:
        f.write(struct.pack("<256i", magic, version, len(ids), *[0] * 253) + struct.pack(f"<{len(ids)}{kind}", *ids))
ids = [ord(c) for c in "one and two and three and " * 400]
llmc("/gpt2.bin", 20240520, 1, "H", ids)
llmc("/llama3.bin", 20240801, 7, "I", ids)
llmc("/beyond.bin", 20240520, 1, "H", ids + [300])
with open(sys.argv[1] + "/nano.bin", "wb") as f:
    f.write(struct.pack(f"<{len(ids)}H", *ids))
PY
check "the sparse file is 6 GB" test "$(stat -c %s "$work/huge.bin")" -eq 6000000040
check "a corpus of 6 GB trains in less than 600 MB" python3 - "$fathom" "$work" $shape <<'PY'
import resource, subprocess, sys
fathom, work, *shape = sys.argv[1:]
subprocess.run([fathom, "train", "--data", work + "/huge.bin", "--out", work + "/huge", "--steps", "30", *shape], check=True, capture_output=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(peak, "KiB")
sys.exit(peak > 600 << 10)
PY
check "its tokens were counted" grep -q '"tokens"' "$work/huge/log.jsonl"

foreign="--steps 10 --vocab 256 --json $shape"
for name in gpt2 llama3; do
    "$fathom" train --data "$work/$name.bin" --out "$work/$name" $foreign >"$work/$name.json" 2>"$work/err"
    check "$name's shards train" test $? -eq 0
done
"$fathom" train --data "$work/nano.bin" --data-format nanogpt --out "$work/nano" $foreign >"$work/nano.json" 2>"$work/err"
check "nanoGPT's train" test $? -eq 0
check "uint16 and uint32 ids are the same tokens" cmp "$work/gpt2/model.safetensors" "$work/llama3/model.safetensors"
check "with and without a header" cmp "$work/gpt2/model.safetensors" "$work/nano/model.safetensors"
check "a run on ids that nobody explains has no tokenizer" test ! -e "$work/gpt2/tokenizer.json"
"$fathom" eval "$work/text" --data "$work/gpt2.bin" --json >"$work/foreign.json" 2>/dev/null
check "bits per byte from the model's tokenizer" awk "BEGIN { b = $(field "$work/foreign.json" loss) / log(2) / $(field "$work/foreign.json" bits_per_byte); exit !(b > 0.999999 && b < 1.000001) }"

"$fathom" eval "$work/gpt2" --data "$work/gpt2.bin" --json >"$work/foreign.json" 2>/dev/null
check "without a tokenizer the loss is there, and no bits per byte" sh -c "grep -q '\"loss\": [0-9]' '$work/foreign.json' && grep -q '\"bits_per_byte\": null' '$work/foreign.json'"
refuses "text for a model without a tokenizer" 1 "1.txt: needs a tokenizer; $work/gpt2/tokenizer.json" "$fathom" eval "$work/gpt2" --data "$work/d/1.txt"

train="$fathom train --out $work/new $shape --steps 5"
refuses "foreign shards without a vocabulary" 1 "gpt2.bin: the shard does not tell its vocabulary" $train --data "$work/gpt2.bin"
refuses "an id beyond the vocabulary" 1 "beyond.bin: token 10400: id 300" $train --data "$work/beyond.bin" --vocab 256
refuses "foreign shards beside text" 1 "--data" $train --data "$work/gpt2.bin" "$work/d/1.txt" --vocab 256
refuses "an unknown format" 2 "--data-format: numpy" $train --data "$work/gpt2.bin" --data-format numpy
refuses "a header where there should be none" 1 "gpt2.bin: has the header" $train --data "$work/gpt2.bin" --data-format nanogpt --vocab 256
refuses "tokenize without data" 2 "--data" "$fathom" tokenize --out "$work/x"
refuses "tokenize to nowhere" 2 "--out" "$fathom" tokenize --data "$work/d"
refuses "tokenize onto shards" 1 "s1: is there already" $tokenize --out "$work/s1"
refuses "tokenize of shards" 1 "already" "$fathom" tokenize --data "$work/s1" --out "$work/x"
refuses "no tokens a shard" 2 "--shard-tokens: 0" $tokenize --out "$work/x" --shard-tokens 0
refuses "all held out" 2 "--val-fraction: 1" $tokenize --out "$work/x" --val-fraction 1
refuses "a disk that is full" 1 "cannot write" sh -c "trap '' XFSZ; ulimit -f 20; exec $tokenize --out '$work/x'"
mkdir "$work/empty" "$work/y.unfinished"
echo mine >"$work/y.unfinished/notes"
refuses "tokenize what is not there" 1 "nowhere: No such file" "$fathom" tokenize --data "$work/nowhere" --out "$work/empty"
check "an empty folder that was there stays" test -d "$work/empty"
refuses "tokenize where somebody has files" 1 "y.unfinished: has notes in it" $tokenize --out "$work/y"
check "they stay" test -s "$work/y.unfinished/notes"
check "refused calls leave nothing" sh -c "test ! -e '$work/x' && test ! -e '$work/x.unfinished' && test ! -e '$work/new/model.safetensors' &&
    ! ls '$work' | grep unfinished.lock"
check "tokenize --help" sh -c "'$fathom' tokenize --help | grep -q '^usage: fathom tokenize'"
finish
