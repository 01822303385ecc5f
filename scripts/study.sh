#!/bin/sh
# The published isoFLOP study (docs/isoflop.md): unpacks the text, trains every run with one thread a process and as many processes as
# there are processors, times the shapes, and writes the report. What is done is kept: it can be stopped and started again, here or
# elsewhere. study.sh BINARY [OUT]
set -eu
fathom=$1
out=${2:-study}
text=${STUDY_TEXT:-build/linux-source}
processes=${STUDY_PROCESSES:-$(nproc)}
archive=/usr/src/linux-source-6.1.tar.xz
train="block crypto fs kernel lib mm net security" heldout="init io_uring ipc virt"

mkdir -p "$out" "$text"
if [ ! -e "$text/complete" ]; then
    [ -e $archive ] || { echo "fathom: no $archive: install linux-source-6.1" >&2; exit 1; }
    echo "study: unpacking the text"
    # shellcheck disable=SC2046
    tar -C "$text" --strip-components=1 -xf $archive $(for folder in $train $heldout; do echo "linux-source-6.1/$folder"; done)
    touch "$text/complete"
fi

# isoflop FOLDER OPTIONS...: a part of the study, in OUT/FOLDER
isoflop() {
    folder=$out/$1
    shift
    # shellcheck disable=SC2046
    "$fathom" isoflop --data $(for name in $train; do echo "$text/$name"; done) \
        --val-data $(for name in $heldout; do echo "$text/$name"; done) --dtype bf16 --out "$folder" "$@"
}

# The same by all processes at once; the first one shows its progress.
part() {
    others=
    for number in $(seq 2 "$processes"); do
        isoflop "$@" --threads 1 >/dev/null 2>"$out/process-$number.log" &
        others="$others $!"
    done
    isoflop "$@" --threads 1 >/dev/null
    for process in $others; do wait "$process" || { cat "$out"/process-*.log >&2; exit 1; }; done
}

# 2.3e15 training FLOPs, then 6.6e15: about 1.5 and 4.5 hours of two cores
part main --budget 3e13,1e14 --variants plain,mod,stochastic
part main --budget 3e14 --variants plain,mod
part main --budget 3e14 --variants stochastic --sizes 3
