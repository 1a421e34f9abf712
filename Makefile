# Two commands do everything on a machine that has Python 3.11+ and make: `make reproduce` and `make test`.
PYTHON ?= python3
PAPER ?= all
PROFILE ?= smoke
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: reproduce test lab report lint bench

reproduce: $(VENV)/ready
	$(BIN)/orchard reproduce $(filter-out all,$(PAPER)) --profile $(PROFILE)

lab: $(VENV)/ready
	$(BIN)/jupyter lab notebooks/index.ipynb

report: $(VENV)/ready
	$(BIN)/orchard report

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/ready-dev
	$(BIN)/ruff check lib tests notebooks
	$(BIN)/ruff format --check lib tests
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m orchard.notebooks check notebooks

bench: $(VENV)/ready-dev
	$(BIN)/orchard bench $(filter-out all,$(PAPER))

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Orchard needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/ready: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[all]'
	touch $@

$(VENV)/ready-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[dev]'
	touch $@ $(VENV)/ready
