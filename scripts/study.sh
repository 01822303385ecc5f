#!/bin/sh
# The published isoFLOP study (docs/isoflop.md): trains every run, with one thread a process and as many processes as there are
# processors, then times the shapes on all of them and writes the report. What is done is kept: it can be stopped and started again, here
# or elsewhere. study.sh BINARY TEXTS [OUT]; TEXTS is a folder that holds the four files below.
set -eu
fathom=$1 texts=$2
out=${3:-study-out}
processes=${STUDY_PROCESSES:-$(nproc)}

data=
for name in kjv.txt tinyshakespeare.txt wikitext2-test.txt wikitext2-valid.txt; do
    [ -e "$texts/$name" ] || { echo "fathom: no $texts/$name: the study's texts are named in docs/isoflop.md; TEXTS=FOLDER says where they are" >&2; exit 1; }
    data="$data $texts/$name"
done
mkdir -p "$out"

# isoflop FOLDER OPTIONS...: a part of the study, in OUT/FOLDER
isoflop() {
    folder=$out/$1
    shift
    # shellcheck disable=SC2086  # a list of names
    "$fathom" isoflop --data $data --dtype bf16 --out "$folder" "$@"
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
    rm -f "$out"/process-*.log
}

part main --budget 3e13,1e14 --variants plain,mod,stochastic
part main --budget 3e14 --variants plain,mod
part main --budget 3e14 --variants stochastic --sizes 3
isoflop main --budget 3e13,1e14,3e14 --variants plain,mod --speed
