# Two commands do all the set-up: `make quickstart` (clone to a talking model) and `make test`.
# Both create .venv on first use and do nothing there again until pyproject.toml changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# tools/install_torch.py picks the CPU build where there is no NVIDIA GPU.
TORCH ?= torch==2.13.0

# Tests share the cores as processes; a file's tests stay together, because they share fixtures.
PYTEST := $(BIN)/pytest -n auto --dist loadfile

.PHONY: quickstart test test-all lint benchmark clean

quickstart: $(VENV)/.installed
	$(BIN)/inkstone run recipes/primer.toml

test: $(VENV)/.installed-dev lint
	$(PYTEST)

test-all: $(VENV)/.installed-dev lint
	$(PYTEST) -m "slow or not slow"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

benchmark: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/pretrain_cpu.py

$(VENV)/.torch:
	$(PYTHON) -c 'import sys; sys.exit("Inkstone needs Python 3.11 or newer; try: make PYTHON=python3.11 " + "quickstart") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python tools/install_torch.py "$(TORCH)"
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install --quiet -e ".[report,serve,chat]"
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet -e ".[report,serve,chat,dev]"
	touch $@

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache .hypothesis
