"""The package against the header, the command line and itself: run by test_python.sh in a folder with run/, both/, plain/ and text.txt."""
import contextlib
import ctypes
import gc
import io
import json
import os
import pathlib
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback

import numpy as np

import fathom
from fathom import _handle, _library, _text

ROOT = pathlib.Path(os.environ["FATHOM_ROOT"])
COMMAND = os.environ["FATHOM_BUILD"] + "/fathom"
TEXT = pathlib.Path("text.txt").read_text()
PROMPT = "17. À la"


def cli(*arguments):
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    done = subprocess.run([COMMAND, *arguments, "--json"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def raises(kind, word, function, *arguments, **keywords):
    try:
        function(*arguments, **keywords)
    except kind as error:
        assert word in str(error), f"{error!r} does not say {word!r}"
        return error
    raise AssertionError(f"{function} did not raise {kind.__name__}")


def compile_and_run(source):
    pathlib.Path("check.c").write_text(source)
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    subprocess.run(["cc", "-std=c17", "-Wall", "-Werror", f"-I{ROOT}/include", "check.c", "-o", "check"], check=True, env=environment,
                   stderr=subprocess.DEVNULL)
    return subprocess.run(["./check"], capture_output=True, text=True, check=True, env=environment).stdout


# --- against the header ---


def test_structures_are_the_headers():
    header = (ROOT / "include/fathom.h").read_text()
    declared = set(re.findall(r"typedef struct (\w+) \{", header))
    engine = {"fathom_engine_options", "fathom_logprob", "fathom_event", "fathom_engine_request", "fathom_engine_stats"}  # not in the package
    assert declared - engine == set(_library.STRUCTURES), declared ^ set(_library.STRUCTURES)
    lines, wanted = [], []
    for name, twin in _library.STRUCTURES.items():
        body = re.sub(r"/\*.*?\*/", "", re.search(rf"typedef struct {name} \{{(.*?)\n\}} {name};", header, re.S).group(1), flags=re.S)
        fields = re.findall(r"(\w+)(?:\[\d+\])?(?=[,;])", body)
        assert fields == [field for field, _ in twin._fields_], f"{name}: {fields}"
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        wanted.append(f"{name} {ctypes.sizeof(twin)}")
        for field in fields:
            lines.append(f'printf("{name}.{field} %zu %zu %s\\n", offsetof({name}, {field}), sizeof((({name} *)0)->{field}), '
                         f"KIND((({name} *)0)->{field}));")
            at = getattr(twin, field)
            wanted.append(f"{name}.{field} {at.offset} {at.size} {kind_of(dict(twin._fields_)[field])}")
    found = compile_and_run("#include <fathom.h>\n#include <stdio.h>\n#define KIND(x) _Generic((x), float: \"float\", double: \"float\", "
                            "int32_t: \"signed\", int64_t: \"signed\", fathom_status: \"signed\", uint64_t: \"unsigned\", default: \"other\")\n"
                            "int main(void) {" + "\n".join(lines) + "}")
    assert found.split("\n")[:-1] == wanted, f"{found}\n{wanted}"


def kind_of(field):
    if field in (ctypes.c_float, ctypes.c_double):
        return "float"
    if field in (ctypes.c_int, ctypes.c_int32, ctypes.c_int64):
        return "signed"
    return "unsigned" if field is ctypes.c_uint64 else "other"


def test_prototypes_are_the_headers():
    prototypes = _library.PROTOTYPES
    assert "fathom_logits" in prototypes
    compile_and_run(f"#include <fathom.h>\n{prototypes}\nint main(void) {{ return 0; }}")
    try:
        compile_and_run(f"#include <fathom.h>\n{prototypes.replace('int threads', 'long threads')}\nint main(void) {{ return 0; }}")
    except subprocess.CalledProcessError:
        return
    raise AssertionError("the compiler does not see a difference")


def test_statuses_and_routings_are_the_headers():
    found = compile_and_run('#include <fathom.h>\n#include <stdio.h>\nint main(void) {\n#define X(code, text) '
                            'printf("%s %d\\n", #code, FATHOM_##code);\nFATHOM_STATUS_LIST(X)\n'
                            'printf("causal %d\\ntopk %d\\n", FATHOM_CAUSAL, FATHOM_TOPK); }')
    wanted = [(status.name, int(status)) for status in fathom.Status] + list(_library.ROUTINGS.items())
    assert found.split("\n")[:-1] == [f"{name} {value}" for name, value in wanted]


def test_defaults_are_the_headers():
    defaults = _library.library.fathom_generate_defaults()
    ours = fathom.Model.generate.__kwdefaults__
    for name in ("max_tokens", "temperature", "top_k", "top_p", "min_p", "seed", "budget", "presence_penalty", "frequency_penalty"):
        assert np.float32(ours[name]) == np.float32(getattr(defaults, name)), name
    assert ours["stop"] == () and defaults.stop_count == 0 and ours["logit_bias"] is None and defaults.logit_bias_count == 0


def test_version_is_the_headers():
    header = (ROOT / "include/fathom.h").read_text()
    assert f'#define FATHOM_VERSION "{fathom.__version__}"' in header


def test_library_is_looked_for_in_three_places():
    def run(**environment):
        kept = {k: v for k, v in os.environ.items() if k != "FATHOM_LIBRARY"}
        return subprocess.run([sys.executable, "-c", "import fathom; print(fathom._library.library._name)"], capture_output=True, text=True,
                              env={**kept, **environment})

    missing = run(FATHOM_LIBRARY="/nowhere/libfathom.so")
    for word in ("FATHOM_LIBRARY: /nowhere/libfathom.so", "beside the package", "the system's loader", "ImportError"):
        assert word in missing.stderr, missing.stderr
    nothing = run(FATHOM_LIBRARY="")
    if nothing.returncode != 0:  # the machine may have one installed
        for word in ("FATHOM_LIBRARY: not set", "beside the package, ", "libfathom.so.0: not there", "the system's loader, libfathom.so.0"):
            assert word in nothing.stderr, nothing.stderr
    shutil.copytree(ROOT / "python/fathom", "packages/fathom")
    os.symlink(os.environ["FATHOM_LIBRARY"], "packages/fathom/libfathom.so.0")
    beside = run(PYTHONPATH="packages")
    assert "packages/fathom/libfathom.so.0" in beside.stdout, beside.stderr
    os.unlink("packages/fathom/libfathom.so.0")
    subprocess.run(["cc", "-shared", "-x", "c", "/dev/null", "-o", "packages/fathom/libfathom.so.0"], check=True,
                   env={k: v for k, v in os.environ.items() if k != "LD_PRELOAD"})
    other = run(PYTHONPATH="packages")
    assert "another version" in other.stderr, other.stderr


# --- text and ids ---


def test_info():
    config = json.loads(pathlib.Path("run/config.json").read_text())
    assert MODEL.info.vocab == config["vocab_size"] == 256
    assert (MODEL.info.layers, MODEL.info.dim, MODEL.info.heads) == (4, 48, 4)
    assert MODEL.info.max_tokens == 128 and MODEL.info.routed_layers == 2 and MODEL.info.params > 0


def test_encode_and_decode():
    ids = MODEL.encode(TEXT)
    assert type(ids) is list and type(ids[0]) is int
    assert ids == MODEL.encode(TEXT.encode()) and MODEL.decode(ids) == TEXT
    assert MODEL.encode("") == [] and MODEL.decode([]) == ""
    assert MODEL.decode(np.array(MODEL.encode("é\0x"), np.uint8)) == "é\0x"
    assert MODEL.decode(MODEL.encode("é")[:1]) == "\ufffd"
    raises(fathom.InvalidArgumentError, "256", MODEL.decode, [256])
    raises(fathom.InvalidArgumentError, "-1", MODEL.decode, [-1])
    raises(fathom.InvalidArgumentError, str(2**32 + 65), MODEL.decode, [2**32 + 65])
    raises(TypeError, "float64", MODEL.decode, [1.0])
    raises(TypeError, "2 of", MODEL.decode, [[1]])


def test_more_ids_than_bytes():
    """No tokenizer of ours does that; a file may."""
    def function(data, size, ids, capacity, count, error):
        count._obj.value = 100
        if capacity < 100:
            error._obj.code, error._obj.message = fathom.Status.INVALID_ARGUMENT, b"too few"
            return int(fathom.Status.INVALID_ARGUMENT)
        ctypes.memset(ids, 1, 400)
        return 0

    assert _text.encode(function, "ab").tolist() == [0x01010101] * 100


def test_tokenizer():
    for path in ("run/tokenizer.json", pathlib.Path("run")):
        with fathom.Tokenizer.load(path) as tokenizer:
            assert tokenizer.encode(TEXT) == MODEL.encode(TEXT) and tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
            assert tokenizer.vocab == 256
    raises(fathom.InvalidArgumentError, "closed", tokenizer.encode, "x")
    raises(FileNotFoundError, "nowhere", fathom.Tokenizer.load, "nowhere/tokenizer.json")
    model = fathom.Model.load("run")
    tokenizer = model.tokenizer
    model.close()
    assert tokenizer.decode(tokenizer.encode("é")) == "é"


# --- what a model computes ---


def near(a, b):
    return np.allclose(a, b, rtol=1e-4, atol=1e-4)


def test_logits_are_a_sessions():
    ids = MODEL.encode(TEXT)[:100]
    logits = MODEL.logits(ids)
    assert logits.shape == (100, 256) and logits.dtype == np.float32 and logits.flags.writeable and np.isfinite(logits).all()
    assert (logits == MODEL.logits(np.array(ids, np.int32))).all() and (logits == MODEL.logits(TEXT.encode()[:100])).all()
    with MODEL.session() as session:
        raises(fathom.InvalidArgumentError, "no token", session.logits)
        for i, token in enumerate(ids):
            session.append([token])
            assert near(session.logits(), logits[i]), i
        assert session.length == 100 and 0 < session.kv_bytes < 100 * 4 * 2 * 48 * 4 and 0 < session.routed_fraction < 1
        session.reset()
        assert session.length == 0
        session.append(np.array(ids, np.int64))
        assert near(session.logits(), logits[-1])
    topk = MODEL.logits(ids, routing="topk")
    assert topk.shape == logits.shape and not near(topk, logits)
    assert (PLAIN.logits(ids) == PLAIN.logits(ids, "topk")).all()
    raises(fathom.InvalidArgumentError, "at most 128", MODEL.logits, [1] * 129)
    raises(fathom.InvalidArgumentError, "1 or more", MODEL.logits, [])
    raises(fathom.InvalidArgumentError, "id 256", MODEL.logits, [1, 256])
    raises(fathom.InvalidArgumentError, "'best'", MODEL.logits, [1], "best")


def test_sessions():
    session = MODEL.session(max_tokens=4)
    session.append([1, 2])
    view = session.logits()
    kept = view.copy()
    assert not view.flags.writeable and (view == kept).all()
    session.append([3])
    assert not (view == kept).all() and (view == session.logits()).all()  # borrowed
    raises(fathom.InvalidArgumentError, "do not fit", session.append, [1, 2])
    raises(fathom.InvalidArgumentError, "129", MODEL.session, 129)
    raises(fathom.InvalidArgumentError, "max_tokens", MODEL.session, -1)
    raises(fathom.InvalidArgumentError, "calibrate", session.set_budget, 0.1)
    raises(fathom.InvalidArgumentError, "calibrate", MODEL.session, 0, 0.1)
    slice_of_it = view[3:5]
    now = slice_of_it.copy()
    del view
    session.close()
    session.close()
    gc.collect()
    assert (slice_of_it == now).all()  # the memory is there as long as an array is
    raises(fathom.InvalidArgumentError, "session is closed", session.append, [1])
    raises(fathom.InvalidArgumentError, "session is closed", lambda: session.length)


def test_loss_is_evals():
    data = TEXT.encode()
    for count in (2, 90, 129, 1000):
        pathlib.Path("part.txt").write_bytes(data[:count])
        for routing in ("causal", "topk"):
            found = MODEL.loss(data[:count], routing=routing)
            wanted = cli("eval", "run", "--data", "part.txt", "--seq-len", str(min(count - 1, 128)), "--routing", routing)
            assert found.predictions == wanted["tokens"] == count - 1
            for key in ("loss", "routed_fraction"):
                assert f"{getattr(found, key):.12g}" == f"{wanted[key]:.12g}", (count, routing, found, wanted)  # all that it prints
    ids = MODEL.encode(TEXT)[:51]
    logits = MODEL.logits(ids[:-1]).astype(np.float64)
    each = np.log(np.exp(logits).sum(1)) - logits[np.arange(50), ids[1:]]
    assert abs(MODEL.loss(ids).loss - each.mean()) < 1e-5
    raises(fathom.InvalidArgumentError, "2 or more", MODEL.loss, "x")


def test_routes_are_inspects():
    text = TEXT[:200]
    for name in ("run", "both"):
        for routing in ("causal", "topk"):
            with fathom.Model.load(name) as model:
                found = model.route(text, routing=routing)
            wanted = cli("inspect", name, "--text", text, "--routing", routing)
            gc.collect()  # the arrays stand by themselves
            assert found.routing == routing and found.tokens.tolist() == wanted["tokens"]
            assert [np.isnan(x) for x in found.loss] == [x is None for x in wanted["loss"]]
            assert np.allclose(found.loss[1:128], wanted["loss"][1:128], 1e-6)
            assert len(found.layers) == len(wanted["layers"]) == (2 if name == "run" else 4)
            for layer, other in zip(found.layers, wanted["layers"]):
                assert (layer.layer, layer.unit) == (other["layer"], other.get("unit", ""))
                assert layer.selected.tolist() == other["selected"] and not layer.selected.flags.writeable
                assert np.allclose(layer.weights, other["weights"], 1e-6)
            assert sum(layer.selected.size for layer in found.layers) > 0
    raises(fathom.InvalidArgumentError, "plain model", PLAIN.route, "abc")
    raises(fathom.InvalidArgumentError, "1 or more", MODEL.route, "")


# --- generating ---


def test_text_is_the_command_lines():
    for options in ({"temperature": 0}, {"seed": 7, "top_k": 5, "top_p": 0.9, "min_p": 0.01, "temperature": 1.2},
                    {"temperature": 0, "presence_penalty": 1.5, "frequency_penalty": 0.25}):
        arguments = [part for key, value in options.items() for part in (f"--{key.replace('_', '-')}", str(value))]
        wanted = cli("generate", "run", "--prompt", PROMPT, "--max-tokens", "100", *arguments)
        generation = MODEL.generate(PROMPT, max_tokens=100, **options)
        assert "".join(generation) == wanted["text"]
        assert generation.stats.tokens == wanted["tokens"] and generation.stats.kv_bytes == wanted["kv_bytes"]
        assert generation.stats.prompt_tokens == len(PROMPT.encode()) and generation.stats.decode_seconds > 0
        assert list(generation) == []


def test_biases_and_penalties():
    text = lambda **options: "".join(MODEL.generate(PROMPT, max_tokens=60, temperature=0, **options))
    plain = text()
    assert text(presence_penalty=2, frequency_penalty=2) != plain
    unwanted = MODEL.encode(plain[0])[0]
    assert text(logit_bias={unwanted: float("-inf")})[0] != plain[0]
    assert text(logit_bias={ord("q"): 1000}) == "q" * 60
    for options, word in (({"presence_penalty": 3}, "presence_penalty"), ({"frequency_penalty": float("nan")}, "frequency_penalty"),
                          ({"logit_bias": {MODEL.info.vocab: 1}}, "logit_bias"), ({"logit_bias": {-1: 1}}, "logit_bias"),
                          ({"logit_bias": {1: float("nan")}}, "logit_bias")):
        raises(fathom.InvalidArgumentError, word, text, **options)


def test_pieces_are_whole_characters():
    pieces = list(MODEL.generate(PROMPT, max_tokens=100, temperature=0))
    assert all(pieces) and "\ufffd" not in "".join(pieces)
    assert max(len(piece.encode()) for piece in pieces) >= 2 and len(pieces) > 50  # the model writes more than ASCII, a token at a time
    wild = "".join(MODEL.generate(PROMPT, max_tokens=100, temperature=50.0))  # bytes at random
    assert "\ufffd" in wild


def test_stop_and_limits():
    whole = "".join(MODEL.generate(PROMPT, max_tokens=60, temperature=0))
    stop = whole[20:24]
    assert "".join(MODEL.generate(PROMPT, max_tokens=60, temperature=0, stop=stop)) == whole[:whole.index(stop)]
    assert "".join(MODEL.generate(PROMPT, max_tokens=60, temperature=0, stop=["\u2603", stop])) == whole[:whole.index(stop)]
    assert MODEL.generate(b"\xc3", max_tokens=1, temperature=0).stats.tokens == 0
    raises(fathom.InvalidArgumentError, "prompt: empty", MODEL.generate, "")
    generation = MODEL.generate(PROMPT, max_tokens=2**62, temperature=0)
    "".join(generation)
    assert generation.stats.tokens == 129 - generation.stats.prompt_tokens
    raises(fathom.InvalidArgumentError, "at most 128", MODEL.generate, "x" * 129)
    raises(fathom.InvalidArgumentError, "max_tokens: 0", MODEL.generate, "x", max_tokens=0)
    raises(fathom.InvalidArgumentError, "top_k", MODEL.generate, "x", top_k=2**32 + 1)
    raises(fathom.InvalidArgumentError, "seed", MODEL.generate, "x", seed=-1)
    raises(fathom.InvalidArgumentError, "NUL", MODEL.generate, "x", stop="a\0b")
    raises(fathom.InvalidArgumentError, "temperature", MODEL.generate, "x", temperature=-1.0)
    raises(fathom.InvalidArgumentError, "calibrate", MODEL.generate, "x", budget=0.5)
    raises(UnicodeEncodeError, "surrogate", MODEL.generate, "\ud800")


class Frees:
    """Counts the library's frees of one kind, not those of nothing."""

    def __init__(self, name):
        self.name, self.count = name, 0

    def __enter__(self):
        self.real = getattr(_library.library, self.name)

        def free(pointer):
            self.count += bool(pointer)
            self.real(pointer)

        setattr(_library.library, self.name, free)
        return self

    def __exit__(self, *_):
        setattr(_library.library, self.name, self.real)


def test_leaving_early_releases():
    with Frees("fathom_generation_free") as frees:
        for piece in MODEL.generate(PROMPT, max_tokens=100):
            break
        assert frees.count == 1
        with MODEL.generate(PROMPT, max_tokens=100) as generation:
            next(generation)
        assert frees.count == 2 and list(generation) == [] and generation.stats.tokens >= 1
        generation.close()
        kept = MODEL.generate(PROMPT, max_tokens=2)
        list(kept)
        assert frees.count == 3  # at the end, though it is still referred to
    with Frees("fathom_model_free") as frees, Frees("fathom_session_free") as sessions:
        model = fathom.Model.load("run")
        session, generation = model.session(), model.generate(PROMPT, max_tokens=3)
        model.close()
        raises(fathom.InvalidArgumentError, "model is closed", model.encode, "x")
        raises(fathom.InvalidArgumentError, "model is closed", model.session)
        session.append([1])
        assert frees.count == 0 and len("".join(generation)) > 0
        del session
        assert sessions.count == 1 and frees.count == 1


def test_interrupts_come_through():
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    try:
        while time.monotonic() < began + 20:
            for _ in MODEL.generate(PROMPT, max_tokens=100):
                pass
        raise AssertionError("no KeyboardInterrupt")
    except KeyboardInterrupt:
        assert time.monotonic() < began + 5
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
    try:
        os.kill(os.getpid(), signal.SIGINT)
        MODEL.logits([1] * 100)
        raise AssertionError("no KeyboardInterrupt")
    except KeyboardInterrupt:
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


def test_signals_do_no_harm():
    wanted, logits = "".join(MODEL.generate(PROMPT, max_tokens=100, temperature=0)), MODEL.logits(TEXT.encode()[:128])
    hits = []
    before = signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for _ in range(8):
            assert "".join(MODEL.generate(PROMPT, max_tokens=100, temperature=0)) == wanted
            assert (MODEL.logits(TEXT.encode()[:128]) == logits).all()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(hits) > 8, len(hits)


def in_threads(*jobs):
    failures = []

    def run(job):
        try:
            job()
        except BaseException:
            failures.append(traceback.format_exc())

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


def test_threads_share_a_model():
    ids = np.array(MODEL.encode(TEXT)[:100], np.int32)
    texts = ["".join(MODEL.generate(PROMPT, max_tokens=60, seed=seed)) for seed in range(4)]
    logits, routes = MODEL.logits(ids), MODEL.route(ids)

    def job(seed):
        for _ in range(5):
            assert "".join(MODEL.generate(PROMPT, max_tokens=60, seed=seed)) == texts[seed]
            assert near(MODEL.logits(ids), logits)
            assert (MODEL.route(ids).layers[0].selected == routes.layers[0].selected).all()

    in_threads(*(lambda seed=seed: job(seed) for seed in range(4)))
    shared = MODEL.session()

    def append():
        for _ in range(25):
            shared.append([65])

    in_threads(*[append] * 4)
    assert shared.length == 100


def test_closing_under_a_call_is_safe():
    for _ in range(10):
        model = fathom.Model.load("run")

        def use():
            try:
                while True:
                    model.logits([1] * 128)
            except fathom.InvalidArgumentError as error:
                assert "closed" in str(error)

        def close():
            time.sleep(0.01)
            model.close()

        in_threads(use, use, close)


# --- errors ---


def test_errors():
    missing = raises(FileNotFoundError, "nowhere", fathom.Model.load, "nowhere")
    assert isinstance(missing, fathom.Error) and missing.code == fathom.Status.NOT_FOUND
    again = pickle.loads(pickle.dumps(missing))
    assert type(again) is type(missing) and again.code == missing.code and str(again) == str(missing)
    shutil.copytree("run", "broken")
    pathlib.Path("broken/config.json").write_text('{"architectures": 3}')
    assert raises(fathom.FormatError, "config.json", fathom.Model.load, pathlib.Path("broken")).code == fathom.Status.FORMAT
    raises(fathom.InvalidArgumentError, "NUL", fathom.Model.load, "ru\0n")
    raises(fathom.InvalidArgumentError, "threads", fathom.Model.load, "run", -1)
    for kind, built_in in ((fathom.InvalidArgumentError, ValueError), (fathom.InputOutputError, OSError), (fathom.FormatError, ValueError),
                           (fathom.OutOfMemoryError, MemoryError), (fathom.UnsupportedError, NotImplementedError)):
        assert issubclass(kind, built_in) and issubclass(kind, fathom.Error)
    assert fathom.errors.error_of(fathom.Status.DIVERGED, "x").code == fathom.Status.DIVERGED


def test_no_handle_is_left():
    gc.collect()
    left = [o for o in gc.get_objects() if isinstance(o, _handle.Handle)]
    assert len(left) == 2, [handle._kind for handle in left]  # MODEL, PLAIN


def test_the_pages_examples_run():
    page = (ROOT / "docs/python.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(blocks) >= 3
    names, said = {}, io.StringIO()
    with contextlib.redirect_stdout(said):
        for block in blocks:
            exec(compile(block, "docs/python.md", "exec"), names)
    assert "2 of 4 blocks routed" in said.getvalue() and "bytes of keys and values" in said.getvalue()


MODEL, PLAIN = fathom.Model.load("run"), fathom.Model.load("plain")
failed = 0
for name, test in [(name, test) for name, test in globals().items() if name.startswith("test_")]:
    said = name[5:].replace("_", " ")
    try:
        skipped = test()
        print(f"ok - {said} # SKIP {skipped}" if skipped else f"ok - {said}", flush=True)
    except BaseException:
        failed = 1
        print(f"not ok - {said}", flush=True)
        print("".join("# " + line for line in traceback.format_exc().splitlines(True)), flush=True)
sys.exit(failed)
