# make demo: real repositories in, a three-phase model out, answering over HTTP. make test: what CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A machine without an NVIDIA GPU gets the CPU build of torch where an index offers one.
TORCH := $(shell command -v nvidia-smi >/dev/null 2>&1 && echo "torch>=2.11,<2.14" || echo "torch==2.13.0")

.PHONY: demo test check drills bench clean

demo: $(VENV)/ready
	$(BIN)/python -m cluster.demo

test: $(VENV)/ready-dev
	BIN=$(BIN) tests/check

check: test

drills: $(VENV)/ready-dev
	$(BIN)/python -m pytest tests/drills -q

bench: $(VENV)/ready-dev
	@ls tests/bench/*.py

$(VENV)/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Icefloe needs Python 3.11 or newer; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/ready-dev: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

clean:
	rm -rf store
