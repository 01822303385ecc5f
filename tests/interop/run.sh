#!/bin/sh
# The tests against other people's tools (transformers, PyTorch, tokenizers, TensorBoard, openai, lm-eval), each the real one from PyPI in a
# virtual environment of their own: run.sh BUILD_FOLDER [pytest options]. TEXTS=FOLDER names the texts and the tokenizer that some tests read;
# where one is not there they skip, loudly.
set -eu
cd "$(dirname "$0")/../.."
build=$1
shift
venv=$build/venv
if ! cmp -s tests/interop/requirements.txt "$venv/installed.txt"; then
    echo "fathom: installing tests/interop/requirements.txt in $venv (about 3 GB, some minutes)" >&2
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/interop/requirements.txt
    cp tests/interop/requirements.txt "$venv/installed.txt"
fi
{ cmake -S . -B "$build" -DFATHOM_TESTS=ON && cmake --build "$build" -j "$(nproc)" --target fathom fathom_shared tool_case tool_chat_ids; } >"$build.log" 2>&1 || {
    cat "$build.log" >&2
    exit 1
}
export FATHOM_BUILD="$PWD/$build" FATHOM_ROOT="$PWD" FATHOM_TEXTS="$(realpath -m "${TEXTS:-../shared/data}")"
export FATHOM_LIBRARY="$FATHOM_BUILD/libfathom.so" PYTHONPATH="$PWD/python" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
exec "$venv/bin/python" -m pytest -q -rs -p no:cacheprovider tests/interop "$@"
