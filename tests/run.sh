#!/bin/sh
# Builds and runs the tests: run.sh BUILD_FOLDER "CMAKE FLAGS" [threads|faults]. Every test speaks TAP; the last line is the count.
# With `threads` only the programs that compute on several threads run (for ThreadSanitizer); with `faults`
# only the server among broken clients.
set -u
cd "$(dirname "$0")/.."
build=$1 flags=${2:-} only=${3:-}
export CMOCKA_MESSAGE_OUTPUT=TAP
export FATHOM_BUILD="$PWD/$build" FATHOM_ROOT="$PWD"
export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS="ignore_noninstrumented_modules=1 halt_on_error=1"
case $flags in *_ASAN=ON* | *_TSAN=ON*) export FATHOM_SANITIZED=1 ;; esac
log=$build/test.log

# shellcheck disable=SC2086  # a list of flags
if ! { cmake -S . -B "$build" -DFATHOM_TESTS=ON -DFATHOM_WERROR=ON $flags &&
       cmake --build "$build" -j "$(nproc)" && cmake --build "$build" --target embed; } >"$build.log" 2>&1; then
    cat "$build.log"
    echo "0 passed, 1 failed"
    exit 1
fi

one=$build/one.log
: >"$log"
run() {
    name=$1
    shift
    start=$(date +%s)
    # in the background of a script SIGINT is ignored, and tests of what it does would wait for ever
    env --default-signal=INT,QUIT,TERM,PIPE "$@" >"$one" 2>&1
    status=$?
    cat "$one" >>"$log"
    good=$(grep -c '^ok' "$one")
    bad=$(grep '^not ok' "$one" | grep -vc '# SKIP') # cmocka 1 says "not ok" of a test that skips itself
    # a program that died has failed even where every line it printed is good
    [ "$status" -ne 0 ] && [ "$status" -ne 77 ] && [ "$bad" -eq 0 ] && bad=1 && echo "not ok - $name exited with $status" >>"$log"
    skip=$(grep -c '^ok.*# SKIP\|^not ok.*# SKIP\|^1\.\.0 # SKIP' "$one")
    good=$((good - $(grep -c '^ok.*# SKIP' "$one")))
    [ $((good + bad + skip)) -eq 0 ] && bad=1 && echo "not ok - $name ran no test" >>"$log"
    echo "$name: $good passed, $bad failed, $skip skipped ($(($(date +%s) - start)) s)"
    [ "$bad" -gt 0 ] && { echo "--- $name"; grep -v '^ok' "$one" | tail -60; }
    [ "$skip" -gt 0 ] && grep '# SKIP' "$one"
    passed=$((passed + good)) failed=$((failed + bad)) skipped=$((skipped + skip))
}

# Takes from the list of tests, by paths, whatever no other lane has taken; a lane has a log and counts of its own.
lane() {
    lane=$1 passed=0 failed=0 skipped=0
    shift
    one=$build/lanes/$lane.one log=$build/lanes/$lane.log
    : >"$log"
    for test in "$@"; do
        name=$(basename "$test")
        mkdir "$build/lanes/$name" 2>/dev/null || continue
        case $test in
        */reference/*) run reference sh "$test" ;;
        *.sh) run "$name" sh "$test" ;;
        *) run "$name" "$test" ;;
        esac
    done
    echo "passed=$passed failed=$failed skipped=$skipped" >"$build/lanes/$lane.counts"
}

passed=0 failed=0 skipped=0
if [ "$only" = threads ]; then
    for name in test_pool test_sharding test_bpe_train test_gradients test_operations test_transformer test_trainer test_session; do
        run "$name" "$build/tests/$name"
    done
    run test_faults.sh sh tests/serve/test_faults.sh
elif [ "$only" = faults ]; then
    run test_faults.sh sh tests/serve/test_faults.sh
else
    rm -rf "$build/lanes"
    mkdir "$build/lanes"
    # The longest first, so that both lanes end at about the same time. Most tests keep one processor busy.
    set -- tests/reference/run.sh tests/cli/test_threads.sh tests/*/test_*.sh "$build"/tests/test_*
    lane 1 "$@" &
    lane 2 "$@" &
    wait
    for lane in 1 2; do
        cat "$build/lanes/$lane.log" >>"$log"
        here_passed=$passed here_failed=$failed here_skipped=$skipped passed=0 failed=1 skipped=0 # of a lane that died
        . "$build/lanes/$lane.counts"
        passed=$((passed + here_passed)) failed=$((failed + here_failed)) skipped=$((skipped + here_skipped))
    done
fi
if [ "$skipped" -gt 0 ]; then
    echo "$passed passed, $failed failed, $skipped skipped"
else
    echo "$passed passed, $failed failed"
fi
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
