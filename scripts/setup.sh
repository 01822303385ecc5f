#!/bin/sh
# Installs the Debian packages that fathom needs and this machine lacks. setup.sh build | study | test | interop | tsan | fuzz
set -eu

build="gcc libc6-dev cmake make pkg-config libdnnl-dev libjansson-dev libpcre2-dev libutf8proc-dev libmicrohttpd-dev"
tests="libcmocka-dev python3 python3-torch python3-numpy chromium chromium-driver python3-selenium fonts-dejavu-core gnuplot-nox"

case "${1:-}" in
build) wanted=$build ;;
study) wanted="$build gnuplot-nox linux-source-6.1 xz-utils" ;;
test) wanted="$build $tests" ;;
interop) wanted="$build libcmocka-dev python3 python3-venv" ;;
tsan) wanted="$build $tests clang libclang-rt-14-dev libomp-dev" ;;
fuzz) wanted="$build clang libclang-rt-14-dev libomp-dev" ;;
*) echo "usage: setup.sh build|study|test|interop|tsan|fuzz" >&2; exit 2 ;;
esac

missing=
for package in $wanted; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "fathom: no apt-get here; install what these Debian packages hold, then set FATHOM_NO_SETUP=1:$missing" >&2
    [ -n "${FATHOM_NO_SETUP:-}" ] && exit 0
    exit 1
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 || { echo "fathom: run once as root: apt-get install$missing" >&2; exit 1; }
    as_root=sudo
fi
echo "fathom: installing$missing" >&2
$as_root apt-get update -qq
# shellcheck disable=SC2086  # a list of names
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
