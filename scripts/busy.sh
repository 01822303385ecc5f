#!/bin/sh
# Training throughput beside other work: busy.sh BINARY [SECONDS]. A row is a situation; `share` is the part of the machine's
# processors that the kernel gave the process, `fair` is the idle rate times that share, and the last column is what was reached
# of it. Every row is paired with an idle run right before it, because machines drift. SECONDS (15) is how long each run measures.
set -eu
fathom=$1 seconds=${2:-15}
work=$(mktemp -d "${TMPDIR:-/tmp}/fathom-busy-XXXXXX")
group=/sys/fs/cgroup/cpu/fathom-busy
loops=
cleanup() {
    [ -z "$loops" ] || kill $loops 2>/dev/null || true
    [ ! -d $group ] || rmdir $group 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

i=0
while [ $i -lt 20000 ]; do
    echo "line $i of a text, $((i * 7919 % 1000)) times"
    i=$((i + 1))
done >"$work/text.txt"

# measure NAME [PREFIX...]: trains for SECONDS; NAME.rate gets tokens/s, NAME.share the share of all processors' time
measure() {
    name=$1
    shift
    rm -rf "${work:?}/$name"
    python3 - "$name" "$seconds" "$work" "$fathom" "$@" <<'PYTHON'
import json, os, resource, subprocess, sys, time
name, seconds, work, fathom, *prefix = sys.argv[1:]
command = [*prefix, fathom, "train", "--data", f"{work}/text.txt", "--out", f"{work}/{name}", "--val-fraction", "0", "--steps", "1000000",
           "--save-every", "0", "--log-every", "1", "--layers", "8", "--dim", "64", "--batch", "8", "--seq-len", "256", "--mod", "topk"]
run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
def steps():
    try:
        with open(f"{work}/{name}/log.jsonl") as log:
            lines = [l for l in log if '"step"' in l and l.endswith("\n")]
        return json.loads(lines[-1])["step"]
    except (OSError, IndexError):
        return 0
def cpu():
    with open(f"/proc/{run.pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
while steps() < 20 and run.poll() is None:
    time.sleep(0.05)
first, began, used = steps(), time.monotonic(), cpu()
time.sleep(float(seconds))
last, ended, spent = steps(), time.monotonic(), cpu()
run.kill()
said = run.communicate()[1]
if last <= first:
    sys.exit(f"busy: {name}: no steps: {said.decode()[-300:]}")
with open(f"{work}/{name}.rate", "w") as f:
    f.write(f"{(last - first) * 8 * 256 / (ended - began)}\n")
with open(f"{work}/{name}.share", "w") as f:
    f.write(f"{(spent - used) / (ended - began) / os.cpu_count()}\n")
PYTHON
}

# row TITLE NAME...: the runs NAME, against `idle`
row() {
    title=$1
    shift
    for name in "$@"; do
        awk -v title="$title" -v rate="$(cat "$work/$name.rate")" -v share="$(cat "$work/$name.share")" \
            -v idle="$(cat "$work/idle.rate")" -v whole="$(cat "$work/idle.share")" 'BEGIN {
                fair = idle * share / whole
                printf "%-34s %9.0f %6.2f %9.0f %6.2f\n", title, rate, share, fair, rate / fair }'
    done
}

printf '%-34s %9s %6s %9s %6s\n' "" "tokens/s" share fair "of it"
measure idle
row idle idle

measure idle
measure one & first=$!
measure two & second=$!
wait $first $second
row "two trainings at once" one two

for count in 1 2 4; do
    measure idle
    loops=
    for _ in $(seq $count); do
        sh -c 'while :; do :; done' &
        loops="$loops $!"
    done
    measure beside
    # shellcheck disable=SC2086  # a list
    kill $loops
    loops=
    row "beside $count busy loops" beside
done

if mkdir $group 2>/dev/null && echo 150000 >$group/cpu.cfs_quota_us 2>/dev/null; then
    measure idle
    cat >"$work/in-group" <<SH
#!/bin/sh
echo \$\$ >$group/cgroup.procs
exec "\$@"
SH
    chmod +x "$work/in-group"
    measure quota "$work/in-group"
    row "a quota of 1.5 processors" quota
else
    echo "a quota of 1.5 processors: not measured, no control group can be made here"
fi
