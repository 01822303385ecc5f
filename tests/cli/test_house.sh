# The house: layers include only what lies below them, one file sees the matrix library, the library neither prints nor exits,
# the embedding example builds against an installed fathom and runs.
. "$(dirname "$0")/../tap.sh"
cd "$FATHOM_ROOT" || exit 1

# allowed ROOM ROOMS...: the files of ROOM include no other rooms of ours
allowed() {
    room=$1
    shift
    pattern=$(echo "$room $*" | tr ' ' '|')
    bad=$(grep -rnE '#include "[a-z]+/' "src/$room" | grep -vE "#include \"($pattern)/" || true)
    if [ -z "$bad" ]; then pass "src/$room includes only: $*"; else
        fail "src/$room includes what it must not"
        echo "$bad" | sed 's/^/# /'
    fi
}
allowed base
allowed kernels base
allowed text base kernels model format
allowed format base kernels model text
allowed model base kernels format text
allowed train base kernels model text format
allowed infer base kernels model text format
allowed inspect base kernels model text format train infer
allowed serve base kernels model text format infer
allowed study base kernels model text format train
check "only gemm.c sees the matrix library" test "$(grep -rlE '#include <(dnnl|cblas)' src)" = src/kernels/cpu/gemm.c
check "the library does not print or exit" sh -c "! grep -rnE '\\b(printf|puts|putchar|perror|exit|abort)\\(|stderr|stdout' src --include=*.c --include=*.h | grep -v '^src/cli/' | grep -vE 'vsnprintf|snprintf'"
check "no file past 1000 lines" sh -c "! find src include -name '*.[ch]' | xargs wc -l | awk '\$2 != \"total\" && \$1 > 1000' | grep ."

check "install" cmake --install "$FATHOM_BUILD" --prefix "$work/prefix"
for file in bin/fathom include/fathom.h; do check "installed $file" test -s "$work/prefix/$file"; done
pc=$(find "$work/prefix" -name fathom.pc)
check "installed a pkg-config file" test -n "$pc"
export PKG_CONFIG_PATH="${pc%/*}"
# the installed file names the configured prefix; a staged copy is told where it really is
compile="cc examples/embed.c -o $work/embed $(pkg-config --define-variable=prefix="$work/prefix" --cflags --libs fathom) -Wl,-rpath,${pc%/pkgconfig/*}"
if grep -q 'FATHOM_[AT]SAN:BOOL=ON' "$FATHOM_BUILD/CMakeCache.txt"; then
    cp "$FATHOM_BUILD/embed" "$work/embed" # a sanitized library cannot be linked into a plain program
else
    check "examples/embed.c builds against it" $compile
    archive=${pc%/pkgconfig/*}/libfathom.a
    check "and with all of it inside" cc examples/embed.c -o "$work/embed-static" -I"$work/prefix/include" "$archive" \
        $(pkg-config --static --libs-only-l --libs-only-other fathom | sed 's/-lfathom//')
    check "the archive has no names but fathom.h's" sh -c "test -s '$archive' && ! nm -g --defined-only '$archive' | grep -E ' [TDBR] ' | grep -v ' fathom_'"
fi
seq 1 2000 >"$work/text.txt"
"$fathom" train --data "$work/text.txt" --out "$work/run" --steps 5 --layers 2 --dim 32 --heads 2 --seq-len 96 --batch 2 --mod topk >/dev/null 2>&1
"$work/embed" "$work/run" "12" >"$work/embedded" 2>"$work/err"
check "examples/embed.c runs" test $? -eq 0
check "examples/embed.c streams 64 tokens" grep -q '^64 tokens' "$work/embedded"
"$work/embed" "$work/nothing" "12" >/dev/null 2>"$work/err"
check "examples/embed.c names a missing folder" grep -q "$work/nothing" "$work/err"
finish
