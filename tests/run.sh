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

: >"$log"
run() {
    name=$1
    shift
    start=$(date +%s)
    "$@" >"$build/one.log" 2>&1
    status=$?
    cat "$build/one.log" >>"$log"
    good=$(grep -c '^ok' "$build/one.log")
    bad=$(grep '^not ok' "$build/one.log" | grep -vc '# SKIP') # cmocka 1 says "not ok" of a test that skips itself
    # a program that died has failed even where every line it printed is good
    [ "$status" -ne 0 ] && [ "$status" -ne 77 ] && [ "$bad" -eq 0 ] && bad=1 && echo "not ok - $name exited with $status" >>"$log"
    skip=$(grep -c '^ok.*# SKIP\|^not ok.*# SKIP\|^1\.\.0 # SKIP' "$build/one.log")
    good=$((good - $(grep -c '^ok.*# SKIP' "$build/one.log")))
    [ $((good + bad + skip)) -eq 0 ] && bad=1 && echo "not ok - $name ran no test" >>"$log"
    echo "$name: $good passed, $bad failed, $skip skipped ($(($(date +%s) - start)) s)"
    [ "$bad" -gt 0 ] && { echo "--- $name"; grep -v '^ok' "$build/one.log" | tail -60; }
    [ "$skip" -gt 0 ] && grep '# SKIP' "$build/one.log"
    passed=$((passed + good)) failed=$((failed + bad)) skipped=$((skipped + skip))
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
    for program in "$build"/tests/test_*; do
        run "$(basename "$program")" "$program"
    done
    for script in tests/*/test_*.sh; do
        run "$(basename "$script")" sh "$script"
    done
    run reference sh tests/reference/run.sh
fi
if [ "$skipped" -gt 0 ]; then
    echo "$passed passed, $failed failed, $skipped skipped"
else
    echo "$passed passed, $failed failed"
fi
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
