# make demo: real repositories in, a three-phase model out, answering over HTTP. make test: what CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Without an NVIDIA GPU, the CPU build of torch (1 GB, not 6) where PyTorch's own index can be reached;
# elsewhere whatever pip's index resolves the range to.
TORCH := torch>=2.11,<2.14
CPU_INDEX := https://download.pytorch.org/whl/cpu
REACH := import urllib.request as u; u.urlopen("$(CPU_INDEX)/torch/", timeout=3)

.PHONY: demo test check drills bench clean

demo: $(VENV)/ready
	$(BIN)/python -m cluster.demo

test: $(VENV)/ready
	BIN=$(BIN) tests/check

check: test

drills: $(VENV)/ready
	$(BIN)/python -m pytest tests/drills -q

bench: $(VENV)/ready
	@ls tests/bench/*.py

# One environment for both commands: the demo's corpus is what is installed in it.
$(VENV)/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Icefloe needs Python 3.11 or newer; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	if ! command -v nvidia-smi >/dev/null && $(PYTHON) -c '$(REACH)' 2>/dev/null; \
	then $(BIN)/python -m pip install --quiet --disable-pip-version-check --index-url $(CPU_INDEX) "$(TORCH)"; \
	else $(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"; fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

clean:
	rm -rf store
