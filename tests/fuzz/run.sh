#!/bin/sh
# Builds the libFuzzer targets and runs each for FUZZ_SECONDS (60): run.sh BUILD_FOLDER "CMAKE FLAGS" [target...]. What a run learned is kept
# in BUILD_FOLDER/corpus and what it found in BUILD_FOLDER/found; a found file is read again by `BUILD_FOLDER/fuzz/fuzz_NAME FILE`.
set -u
cd "$(dirname "$0")/../.."
build=$1 flags=${2:-}
shift 2
seconds=${FUZZ_SECONDS:-60}
# shellcheck disable=SC2086  # a list of flags
if ! { cmake -S . -B "$build" -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=None -DCMAKE_C_FLAGS="-O1 -g -Wno-pass-failed" -DFATHOM_FUZZ=ON \
           -DFATHOM_TESTS=OFF -DFATHOM_WERROR=ON $flags && cmake --build "$build" -j "${JOBS:-$(nproc)}" --target fuzz; } >"$build.log" 2>&1; then
    cat "$build.log"
    exit 1
fi

memory=/tmp
[ -w /dev/shm ] && memory=/dev/shm # the readers take paths, and files in memory are the quickest
TMPDIR=$(mktemp -d "$memory/fathom-fuzz-run-XXXXXX")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
mkdir -p "$build/found"
failures=0
[ $# -gt 0 ] || set -- $(cd "$build/fuzz" && ls)
for target; do
    name=${target#fuzz_}
    corpus=$build/corpus/$name seeds=$TMPDIR/$name
    mkdir -p "$corpus" "$seeds"
    FUZZ_SEEDS=$seeds "$build/fuzz/fuzz_$name" >/dev/null 2>&1
    [ -e "$seeds/seed-0" ] || { echo "fuzz_$name: no seeds"; failures=$((failures + 1)); continue; }
    # the quoted words of the seeds and of the readers are the fuzzer's dictionary
    cat "$seeds"/* src/format/*.c src/text/*.c src/serve/request.c src/model/config.h | grep -ao '"[A-Za-z_][A-Za-z0-9_]*"' | sort -u |
        sed 's/"\(.*\)"/"\\"\1\\""/' >"$TMPDIR/words"
    # 5 s and 100 MB at once are what no file of this size may take
    "$build/fuzz/fuzz_$name" -max_total_time="$seconds" -timeout=5 -malloc_limit_mb=100 -max_len=20000 -dict="$TMPDIR/words" -close_fd_mask=1 \
        -print_final_stats=1 -artifact_prefix="$build/found/$name-" "$corpus" "$seeds" >"$build/$name.log" 2>&1
    status=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$build/$name.log")
    covered=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$build/$name.log" | tail -1)
    if [ $status -eq 0 ]; then
        echo "fuzz_$name: nothing found in ${runs:-?} runs, $seconds s, $covered edges"
    else
        echo "fuzz_$name: exit $status after ${runs:-?} runs; $build/$name.log ends with"
        grep -v '^#' "$build/$name.log" | tail -40
        failures=$((failures + 1))
    fi
done
[ "$failures" -eq 0 ]
