# Everything below sets up what it needs in .venv, once for each state of pyproject.toml.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STATE := $(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
RUN_STAMP := .venv/.run-$(STATE)
DEV_STAMP := .venv/.dev-$(STATE)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Thread pools that spin after a call slow whoever comes next, up to threefold.
export OMP_WAIT_POLICY ?= passive
export TVM_BIND_THREADS ?= 0
test check-deep: export OMP_NUM_THREADS ?= 2

WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --durations=15

.PHONY: run test check-deep lint setup clean

run: $(RUN_STAMP)
	@$(BIN)/python examples/run_gemma.py

test: $(DEV_STAMP)
	@$(PYTEST)

check-deep: export TILEWRIGHT_TEST_DEPTH = deep
check-deep: $(DEV_STAMP)
	@$(PYTEST) --timeout=7200

lint: $(DEV_STAMP)
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports --no-logo --no-cache

setup: $(DEV_STAMP)

# A full environment holds all that `make run` needs, so either stamp will do for it.
$(RUN_STAMP): | $(BIN)/pip
	@test -e $(DEV_STAMP) || { echo "setting up .venv (once; a few minutes) ..."; \
		$(PIP) -e '.[run,tvm,models,demo]'; }
	@touch $@

$(DEV_STAMP): | $(BIN)/pip
	@echo "setting up .venv for tests (once; a few minutes) ..."
	@$(PIP) -e '.[dev]'
	@touch $@

# pip comes last into a new environment: an interrupted set-up is taken up again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "tilewright needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@$(PYTHON) -m venv .venv

clean:
	@rm -rf build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -path ./.venv -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
