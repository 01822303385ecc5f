#!/bin/sh
# The published isoFLOP study (docs/isoflop.md): trains every run, with one thread a process and as many processes as there are
# processors, then times the shapes on all of them and writes the report. What is done is kept: it can be stopped and started again, here
# or elsewhere. study.sh BINARY TEXTS [OUT]; TEXTS is a folder that holds the four files below. Debian's linux-source-6.1 must be installed.
set -eu
fathom=$1 texts=$2
out=${3:-study-out}
processes=${STUDY_PROCESSES:-$(nproc)}

set --
for name in kjv.txt tinyshakespeare.txt wikitext2-test.txt wikitext2-valid.txt; do
    [ -e "$texts/$name" ] || { echo "fathom: no $texts/$name: the study's texts are named in docs/isoflop.md; TEXTS=FOLDER says where they are" >&2; exit 1; }
    set -- "$@" "$texts/$name"
done
linux=/usr/src/linux-source-6.1.tar.xz
[ -e "$linux" ] || { echo "fathom: no $linux: Debian's package linux-source-6.1 has it" >&2; exit 1; }
mkdir -p "$out"

rate=0.25 # --lr-factor; docs/isoflop.md has why it changes below
others=
# shellcheck disable=SC2086  # a list of numbers
trap '[ -z "$others" ] || kill $others 2>/dev/null || :' EXIT
trap 'exit 1' INT TERM

# train PART OPTIONS TEXTS...: runs of a part by all processes at once; the first one shows its progress.
train() {
    part=$1 options=$2
    shift 2
    others=
    # shellcheck disable=SC2086  # a list of options
    for number in $(seq 2 "$processes"); do
        "$fathom" isoflop --data "$@" --dtype bf16 --out "$out/$part" $options --lr-factor $rate --threads 1 >/dev/null 2>"$out/process-$number.log" &
        others="$others $!"
    done
    # shellcheck disable=SC2086
    "$fathom" isoflop --data "$@" --dtype bf16 --out "$out/$part" $options --lr-factor $rate --threads 1 >/dev/null
    for process in $others; do wait "$process" || { cat "$out"/process-*.log >&2; exit 1; }; done
    others=
    rm -f "$out"/process-*.log
}

# time_steps PART OPTIONS TEXTS...: step times of all that the part has, by one process on all processors; OPTIONS are of a run that it has.
time_steps() {
    part=$1 options=$2
    shift 2
    # shellcheck disable=SC2086
    "$fathom" isoflop --data "$@" --dtype bf16 --out "$out/$part" $options --lr-factor $rate --speed
}

train main "--budget 3e13,1e14 --variants plain,mod,stochastic" "$@"
train main "--budget 3e13 --variants plain --sizes 128" "$@"
train main "--budget 3e13 --variants mod --sizes 160" "$@"
train main "--budget 1e14 --variants mod --sizes 80" "$@"
train main "--budget 3e14 --variants plain,mod" "$@"
train main "--budget 3e14 --variants plain --sizes 96 --seeds 3" "$@"
train main "--budget 3e14 --variants mod --sizes 160 --seeds 3" "$@"
train main "--budget 3e14 --variants stochastic --sizes 3" "$@"
train main "--budget 3e14 --variants mod-c0.25 --sizes 96,128,160,192" "$@"
train main "--budget 3e14 --variants mod-c0.25 --sizes 128 --seeds 3" "$@"
# larger capacities, other heads, and what the routed blocks do
train main "--budget 1e14 --sizes 64,80,128 --variants mod-c0.25" "$@"
train main "--budget 1e14 --sizes 80,96 --variants mod-c0.5" "$@"
train main "--budget 1e14 --sizes 96 --variants plain,plain-h8,plain-h16,mod-h8,mod-h16" "$@"
train main "--budget 1e14 --sizes 128 --variants mod-h16,plain-b4-h16,stochastic-h16" "$@"
train main "--budget 3e14 --sizes 96,128 --variants plain-h16" "$@"
train main "--budget 3e14 --sizes 128,160 --variants mod-h16" "$@"
train main "--budget 3e14 --sizes 128 --variants mod-c0.25-h16" "$@"
time_steps main "--budget 3e13 --variants plain --sizes 64" "$@"
train ablation "--budget 1e13 --sizes 3 --seeds 2 --variants plain,plain-b6,mod,stochastic" "$@"
train ablation "--budget 1e13 --sizes 3 --variants mod-c0.06,mod-c0.25,mod-c0.5,mod-c1,mod-e1,mod-d3,mod-m2,mod-sigmoid,mod-one,mod-aux,choice" "$@"
time_steps ablation "--budget 1e13 --variants plain --sizes 48" "$@"
# the same texts as tokens
mkdir -p "$out/bpe"
[ -e "$out/bpe/tokenizer.json" ] || "$fathom" tokenizer train --vocab 1024 --data "$@" --out "$out/bpe/tokenizer.json"
train bpe "--budget 3e13 --variants plain,mod,mod-c0.25,stochastic" "$@" --tokenizer "$out/bpe/tokenizer.json"
train bpe "--budget 3e13 --variants plain --sizes 48,64,80 --seeds 2" "$@" --tokenizer "$out/bpe/tokenizer.json"
train bpe "--budget 3e13 --variants mod --sizes 64,80,96 --seeds 2" "$@" --tokenizer "$out/bpe/tokenizer.json"
train bpe "--budget 1e14 --variants plain,mod --sizes 64,80,96,128" "$@" --tokenizer "$out/bpe/tokenizer.json"
train bpe "--budget 3e13 --variants plain-b12,mod-b12 --sizes 48,64" "$@" --tokenizer "$out/bpe/tokenizer.json"
train bpe "--budget 3e13 --variants mod-b12,mod-b16 --sizes 80" "$@" --tokenizer "$out/bpe/tokenizer.json"
train bpe "--budget 1e14 --variants mod-b12 --sizes 96,128" "$@" --tokenizer "$out/bpe/tokenizer.json"
time_steps bpe "--budget 3e13 --variants plain --sizes 64" "$@" --tokenizer "$out/bpe/tokenizer.json"
# other learning rates, at the budget below the largest
for rate in 0.12 0.5 1; do
    [ $rate = 0.12 ] || train rates/$rate "--budget 1e14 --variants plain --sizes 96" "$@" --tokenizer "$out/bpe/tokenizer.json"
    train rates/$rate "--budget 1e14 --variants mod --sizes 128" "$@" --tokenizer "$out/bpe/tokenizer.json"
done
rate=0.25
# a quarter of each text, read four times as often; held out is what is held out of the whole
mkdir -p "$out/quarter/train" "$out/quarter/heldout"
for text in "$@"; do
    bytes=$(wc -c <"$text")
    head -c $(((bytes - bytes / 20) / 4)) "$text" >"$out/quarter/train/$(basename "$text")"
    tail -c $((bytes / 20)) "$text" >"$out/quarter/heldout/$(basename "$text")"
done
set -- "$out/quarter/train" --val-data "$out/quarter/heldout" --tokenizer "$out/bpe/tokenizer.json"
train quarter "--budget 3e13 --variants plain --sizes 48,64,80" "$@"
train quarter "--budget 3e13 --variants mod --sizes 64,80,96" "$@"
time_steps quarter "--budget 3e13 --variants plain --sizes 64" "$@"

# More text: the documentation of Linux beside the four, its files in an order that makes the last twentieth a fair share of them all.
set --
for name in kjv.txt tinyshakespeare.txt wikitext2-test.txt wikitext2-valid.txt; do
    set -- "$@" "$texts/$name"
done
more=$out/more-text
mkdir -p "$more"
if [ ! -e "$more/documentation.txt" ]; then
    tar -xJf "$linux" -C "$more" --wildcards 'linux-source-6.1/Documentation/*'
    (cd "$more/linux-source-6.1/Documentation" && find . -type f \( -name '*.rst' -o -name '*.txt' \) -not -path './translations/*' \
        -not -path './devicetree/*' -print0 | xargs -0 md5sum | LC_ALL=C sort | cut -c35- | tr '\n' '\0' | xargs -0 cat) >"$more/documentation.part"
    rm -r "$more/linux-source-6.1"
    mv "$more/documentation.part" "$more/documentation.txt"
fi
set -- "$@" "$more/documentation.txt"
[ -e "$more/tokenizer.json" ] || "$fathom" tokenizer train --vocab 1024 --data "$@" --out "$more/tokenizer.json"
set -- "$@" --tokenizer "$more/tokenizer.json"
train more-text "--budget 3e13 --variants plain --sizes 48,64,80" "$@"
train more-text "--budget 3e13 --variants mod --sizes 64,80,96" "$@"
train more-text "--budget 3e14 --variants plain --sizes 80,96,128,160" "$@"
train more-text "--budget 3e14 --variants mod --sizes 96,128,160,192" "$@"
time_steps more-text "--budget 3e13 --variants plain --sizes 64" "$@"

# Prose: an English dictionary and a book of essays beside the four, out of Debian's packages, which need not be installed. Of the dictionary the
# lines that name its sources and the indentation are left out.
set --
for name in kjv.txt tinyshakespeare.txt wikitext2-test.txt wikitext2-valid.txt; do
    set -- "$@" "$texts/$name"
done
prose=$out/prose
mkdir -p "$prose"
if [ ! -e "$prose/faq.txt" ]; then
    (cd "$prose" && apt-get -qq download dict-gcide anarchism)
    for package in dict-gcide anarchism; do dpkg-deb -x "$prose/$package"_*.deb "$prose/packages"; done
    gzip -dc <"$prose/packages/usr/share/dictd/gcide.dict.dz" | sed -e 's/^ *//' -e 's/ *$//' -e '/^\[[^]]*\]$/d' | cat -s >"$prose/dictionary.txt"
    (cd "$prose/packages/usr/share/doc/anarchism/markdown" && find . -name '*.md*' | LC_ALL=C sort | xargs gzip -dcf) >"$prose/faq.part"
    rm -r "$prose/packages" "$prose"/*.deb
    mv "$prose/faq.part" "$prose/faq.txt"
fi
set -- "$@" "$prose/dictionary.txt" "$prose/faq.txt"
[ -e "$prose/tokenizer.json" ] || "$fathom" tokenizer train --vocab 1024 --data "$@" --out "$prose/tokenizer.json"
set -- "$@" --tokenizer "$prose/tokenizer.json"
train prose "--budget 3e13 --variants plain --sizes 48,64,80" "$@"
train prose "--budget 3e13 --variants mod --sizes 64,80,96" "$@"
train prose "--budget 3e14 --variants plain,mod,mod-c0.25 --sizes 128" "$@"
train prose "--budget 3e14 --variants mod,mod-h16 --sizes 160" "$@"
train prose "--budget 3e14 --variants plain-h16 --sizes 128" "$@"
rate=0.5
train rates/prose-0.5 "--budget 3e14 --variants plain --sizes 96,128" "$@"
train rates/prose-0.5 "--budget 3e14 --variants mod --sizes 128,160" "$@"
