# Sourced by the shell tests: TAP lines, a temporary folder, the binary under test.
set -u
fathom=$FATHOM_BUILD/fathom
work=$(mktemp -d "${TMPDIR:-/tmp}/fathom-test-XXXXXX")
trap 'rm -rf "$work"' EXIT
failures=0

pass() { echo "ok - $*"; }
fail() {
    echo "not ok - $*"
    failures=$((failures + 1))
}
skip() { echo "ok - $1 # SKIP $2"; }
# check NAME COMMAND...: passes where the command succeeds
check() {
    name=$1
    shift
    if "$@" >"$work/check.out" 2>&1; then pass "$name"; else
        fail "$name"
        sed 's/^/# /' "$work/check.out" | tail -5
    fi
}
# refuses NAME CODE WORD COMMAND...: the command must end with CODE and say one line on stderr that begins with "fathom: " and
# holds WORD, and nothing on stdout
refuses() {
    name=$1 code=$2 word=$3
    shift 3
    "$@" >"$work/out" 2>"$work/err" </dev/null
    status=$?
    if [ $status -eq "$code" ] && [ "$(grep -c '^fathom: ' "$work/err")" -eq 1 ] && grep '^fathom: ' "$work/err" | grep -qF -- "$word" &&
        [ ! -s "$work/out" ]; then
        pass "$name"
    else
        fail "$name: exit $status, wanted $code and '$word'"
        sed 's/^/# /' "$work/err" | tail -5
    fi
}
# field FILE KEY: a number or text of a flat JSON object
field() { sed -n "s/.*\"$2\": *\"\{0,1\}\([^,\"}]*\).*/\1/p" "$1"; }
finish() { exit $((failures > 0)); }
