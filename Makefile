# The short way in; CMakeLists.txt has the rules. On a fresh Debian 12 machine `make demo` and `make test` do all their own
# set-up.
#
#   make            build build/fathom
#   make demo       train plain and Mixture-of-Depths models on text of this machine at equal training FLOPs, side by side
#   make test       all tests (under 10 minutes on 2 cores)
#   make test-asan  the same under AddressSanitizer and UndefinedBehaviorSanitizer
#   make test-interop  against transformers, PyTorch, tokenizers, TensorBoard, openai and lm-eval from PyPI (downloads 3 GB the first time)
#   make test-tsan  the threaded tests under ThreadSanitizer (clang)
#   make test-faults  the server among thousands of broken, slow and vanishing clients, then some under AddressSanitizer (6 minutes)
#   make soak       a server under mixed load for SOAK_MINUTES (30)
#   make fuzz       every reader of files under libFuzzer for FUZZ_SECONDS (60) each (clang)
#   make study      the published comparison at equal training FLOPs (hours; docs/isoflop.md); TEXTS=FOLDER OUT=FOLDER
#   make install PREFIX=/usr/local
#   make clean

BUILD ?= build
PREFIX ?= /usr/local
CMAKE_FLAGS ?=
JOBS := $(shell nproc 2>/dev/null || echo 2)

.PHONY: all demo study test test-asan test-interop test-tsan test-faults soak fuzz install clean setup setup-test

all: setup
	@cmake -S . -B $(BUILD) -DCMAKE_INSTALL_PREFIX=$(PREFIX) -DFATHOM_TESTS=OFF $(CMAKE_FLAGS) >$(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }
	@cmake --build $(BUILD) -j $(JOBS) --target fathom fathom_shared fathom_archive

setup:
	@scripts/setup.sh build

setup-test:
	@scripts/setup.sh test

demo: all
	@scripts/demo.sh $(BUILD)/fathom

OUT ?= study-out
study: all
	@[ -n "$(TEXTS)" ] || { echo "fathom: make study TEXTS=FOLDER: a folder with the texts that docs/isoflop.md names" >&2; exit 2; }
	@scripts/setup.sh study
	@scripts/study.sh "$(BUILD)/fathom" "$(TEXTS)" "$(OUT)"

test: setup-test
	@tests/run.sh $(BUILD)-test "$(CMAKE_FLAGS)"

test-asan: setup-test
	@tests/run.sh $(BUILD)-asan "-DFATHOM_ASAN=ON $(CMAKE_FLAGS)"

test-interop:
	@scripts/setup.sh interop
	@tests/interop/run.sh $(BUILD)-interop

test-tsan:
	@scripts/setup.sh tsan
	@tests/run.sh $(BUILD)-tsan "-DFATHOM_TSAN=ON -DCMAKE_C_COMPILER=clang $(CMAKE_FLAGS)" threads

test-faults: setup-test
	@FATHOM_FAULTS=full tests/run.sh $(BUILD)-test "$(CMAKE_FLAGS)" faults
	@tests/run.sh $(BUILD)-asan "-DFATHOM_ASAN=ON $(CMAKE_FLAGS)" faults

soak: all
	@scripts/soak.sh "$(BUILD)/fathom"

fuzz:
	@scripts/setup.sh fuzz
	@tests/fuzz/run.sh $(BUILD)-fuzz "$(CMAKE_FLAGS)"

install: all
	@cmake --install $(BUILD) --prefix $(PREFIX)
	@[ "$$(id -u)" -ne 0 ] || ldconfig

clean:
	rm -rf $(BUILD) $(BUILD).log $(BUILD)-test $(BUILD)-asan $(BUILD)-interop $(BUILD)-tsan $(BUILD)-fuzz
