# A routed model's directory holds the Python files that run it in transformers; without transformers, their layers are held against
# the engine: losses, every gradient, and steps with a cache. tests/interop/test_export.py has the rest.
. "$(dirname "$0")/../tap.sh"
seq 1 400 >"$work/text.txt"
train() {
    out=$1
    shift
    "$fathom" train --data "$work/text.txt" --out "$work/$out" --steps 2 --layers 2 --dim 32 --heads 2 --seq-len 16 --batch 2 "$@" \
        >/dev/null 2>&1
}
files="fathom_layers.py modeling_fathom.py"
train plain
train routed --mod topk
"$fathom" convert "$work/routed" "$work/small" --quantize bf16 >/dev/null
for folder in routed small; do
    for file in $files; do check "$folder: $file is ours" cmp "$work/$folder/$file" "$FATHOM_ROOT/python/fathom_hf/$file"; done
    check "$folder: auto_map names it" python3 - "$work/$folder" <<'P'
import ast, json, sys
for name in json.load(open(sys.argv[1] + "/config.json"))["auto_map"].values():
    module, cls = name.split(".")
    tree = ast.parse(open(f"{sys.argv[1]}/{module}.py").read())
    assert any(isinstance(n, ast.ClassDef) and n.name == cls for n in tree.body), name
P
done
for file in $files; do check "plain: no $file" test ! -e "$work/plain/$file"; done
check "plain: no auto_map" sh -c "! grep auto_map '$work/plain/config.json'"
if /usr/bin/python3 -c 'import torch' 2>/dev/null; then
    cases=
    for kind in raw sigmoid-aux raw-aux one stochastic token-choice token-choice-sigmoid attn mlp attn+mlp attn+mlp-aux attn+mlp-choice \
        attn+mlp-stochastic dense-kv dense-kv-choice dense-kv-attn dense-kv-attn+mlp moe-tokens moe-tokens-1 moe-experts moe-experts-1 \
        mode-staged mode-staged-tokens mode-staged-choice mode-staged-mlp mode-integrated mode-integrated-choice mode-integrated-choice-1; do
        "$FATHOM_BUILD/tests/tool_case" "$work/$kind" $kind 1
        cases="$cases $work/$kind"
    done
    # shellcheck disable=SC2086  # a list of folders
    PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 "$FATHOM_ROOT/tests/format/export_layers.py" "$work/routed" $cases >"$work/layers"
    status=$?
    cat "$work/layers"
    check "the layers were compared" test $status -eq 0 -a "$(grep -c '^ok' "$work/layers")" -gt 50
    grep -q '^not ok' "$work/layers" && failures=$((failures + 1))
else
    skip "the layers against the engine" "/usr/bin/python3 has no torch (Debian: python3-torch)"
fi
finish
