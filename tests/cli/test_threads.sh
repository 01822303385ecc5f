# Results are the same bits for any number of threads, whatever the environment says about threads, and inside a host program's own
# parallel region.
. "$(dirname "$0")/../tap.sh"

for i in $(seq 3000); do echo "line $i of a text that is read, $((i * 7919 % 1000)) times"; done >"$work/text.txt"
shape="--steps 50 --layers 2 --dim 64 --heads 4 --seq-len 128 --batch 8 --eval-tokens 2048"

# Everything that computes, as one list of checksums. outcome NAME OPTIONS...: OPTIONS of every command that takes --threads
outcome() {
    to=$work/$1
    shift
    for kind in plain mod bf16; do
        case $kind in
        plain) mod="" ;;
        mod) mod="--mod topk --mod-capacity 0.25" ;;
        bf16) mod="--mod topk --dtype bf16" ;;
        esac
        run=$to/$kind
        # shellcheck disable=SC2086  # lists of words
        "$fathom" train --data "$work/text.txt" --out "$run" $shape $mod "$@" >/dev/null 2>&1 || return 1
        sha256sum <"$run/model.safetensors"
        "$fathom" eval "$run" --data "$work/text.txt" --tokens 4000 --json "$@" 2>/dev/null | grep -o '"loss[a-z_]*": *[^,}]*' || return 1
        "$fathom" generate "$run" --prompt "line 3" --max-tokens 40 "$@" 2>/dev/null | sha256sum
        for packed in bf16 q8; do
            "$fathom" convert "$run" "$run-$packed" --quantize $packed >/dev/null 2>&1 || return 1
            "$fathom" eval "$run-$packed" --data "$work/text.txt" --tokens 4000 --json "$@" 2>/dev/null | grep -o '"loss[a-z_]*": *[^,}]*' || return 1
        done
    done >"$to.list"
    serve_outcome "$to/mod-q8" "$@" >>"$to.list"
}

# The log-probabilities that the server sends.
serve_outcome() {
    model=$1
    shift
    python3 - "$fathom" "$model" "$@" <<'PYTHON'
import json, re, subprocess, sys, urllib.request
server = subprocess.Popen([sys.argv[1], "serve", sys.argv[2], "--port", "0", *sys.argv[3:]], stderr=subprocess.PIPE, text=True)
for line in server.stderr:
    port = re.search(r":(\d+)", line)
    if port:
        break
body = {"prompt": ["line 7 of", "line 12"], "max_tokens": 12, "logprobs": 3, "seed": 1, "temperature": 0.8}
request = urllib.request.Request(f"http://127.0.0.1:{port[1]}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
choices = json.load(urllib.request.urlopen(request))["choices"]
server.terminate()
print(json.dumps([[c["text"], c["logprobs"]["token_logprobs"]] for c in choices]))
PYTHON
}

check "one thread computes" outcome one --threads 1
check "the list is whole" test "$(wc -l <"$work/one.list")" -ge 15
check "the server's answer is in it" sh -c "tail -1 '$work/one.list' | grep -q '^\[\[.*-[0-9]'"
same() {
    name=$1
    shift
    check "$name computes" "$@"
    check "$name: the same bits" diff "$work/one.list" "$work/other.list"
    rm -rf "$work/other"
}
for threads in 2 3 7; do
    same "--threads $threads" outcome other --threads $threads
done
for setting in OMP_THREAD_LIMIT=1 OMP_DYNAMIC=true OMP_MAX_ACTIVE_LEVELS=0 OMP_NUM_THREADS=1 OMP_NUM_THREADS=3 OMP_NUM_THREADS=7,2 \
    OMP_WAIT_POLICY=passive; do
    export "${setting?}"
    same "$setting" outcome other
    unset "${setting%%=*}"
done
export OMP_THREAD_LIMIT=1
same "OMP_THREAD_LIMIT=1 with --threads 2" outcome other --threads 2
unset OMP_THREAD_LIMIT
"$fathom" train --data "$work/text.txt" --out "$work/count" --steps 1 --layers 1 --dim 32 --heads 2 --batch 1 >"$work/out" 2>&1
check "at most a thread for each processor" test "$(sed -n 's/.* on \([0-9]*\) threads$/\1/p' "$work/out")" -le "$(nproc)"
OMP_NUM_THREADS=5 "$fathom" train --data "$work/text.txt" --out "$work/count2" --steps 1 --layers 1 --dim 32 --heads 2 --batch 1 >"$work/out" 2>&1
check "OMP_NUM_THREADS is heard" grep -q "on 5 threads" "$work/out"
check "one processor of the affinity mask, one thread" sh -c "taskset -c 0 '$fathom' train --data '$work/text.txt' --out '$work/count3' --steps 1 \
    --layers 1 --dim 32 --heads 2 --batch 1 2>&1 | grep -q 'on 1 threads'"

"$fathom" bench train --layers 1 --dim 32 --heads 2 --batch 1 --steps 1 --json >"$work/out" 2>/dev/null
check "bench says how long threads waited" grep -q '"waited": *0' "$work/out"
taskset -c 0 sh -c 'while :; do :; done' &
busy=$!
check "beside a busy loop it says so" sh -c "taskset -c 0 '$fathom' bench train --layers 2 --dim 32 --heads 2 --batch 4 --steps 60 2>&1 |
    grep -q '^busy machine: threads waited'"
kill $busy

cat >"$work/host.c" <<'C'
#include <fathom.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

enum { THREADS = 4, TOKENS = 60, VOCAB = 256 };
static float alone[TOKENS * VOCAB], inside[THREADS][TOKENS * VOCAB];

int main(int argc, char **argv)
{
    fathom_model *model;
    fathom_error err;
    int32_t ids[TOKENS];
    int bad = argc != 2 || fathom_model_load(argv[1], 3, &model, &err) != FATHOM_OK;
    for (int i = 0; i < TOKENS; i++)
        ids[i] = 32 + i;
    omp_set_num_threads(THREADS);
    bad |= fathom_logits(model, ids, TOKENS, FATHOM_CAUSAL, alone, &err) != FATHOM_OK;
    if (omp_get_max_threads() != THREADS)
        bad |= 2;
#pragma omp parallel num_threads(THREADS) reduction(| : bad)
    {
        fathom_error mine;
        const int before = omp_get_max_threads();
        bad |= fathom_logits(model, ids, TOKENS, FATHOM_CAUSAL, inside[omp_get_thread_num()], &mine) != FATHOM_OK;
        bad |= omp_get_max_threads() != before ? 2 : 0;
    }
    for (int i = 0; i < THREADS; i++)
        bad |= memcmp(alone, inside[i], sizeof alone) != 0 ? 4 : 0;
    fathom_model_free(model);
    if (bad)
        printf("failed: %d\n", bad);
    return bad;
}
C
for compiler in gcc clang; do
    # clang's own OpenMP runtime is a package of its own
    if [ -n "${FATHOM_SANITIZED:-}" ] || ! echo 'int main(void){return 0;}' | $compiler -fopenmp -x c - -o "$work/none" 2>/dev/null; then
        skip "inside a parallel region of $compiler" "no $compiler with OpenMP here, or a sanitizer's build"
        continue
    fi
    check "a host program is built with $compiler" $compiler -fopenmp -I"$FATHOM_ROOT/include" "$work/host.c" -L"$FATHOM_BUILD" -lfathom \
        -Wl,-rpath,"$FATHOM_BUILD" -o "$work/host-$compiler"
    check "inside a parallel region of $compiler: the same bits, and its settings are left alone" "$work/host-$compiler" "$work/one/mod"
done
finish
