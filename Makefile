# The two commands of the README: `make demo` and `make test`. Each sets up .venv once and reuses it while
# pyproject.toml is as it was.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Test workers; each computes on one thread, so that two of them use two cores.
WORKERS ?= 2

.PHONY: demo test gui lint format wheel clean

demo: $(VENV)/.installed
	$(BIN)/anymc3d demo --output demo-output

test: $(VENV)/.installed-test lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --cov --cov-report=term $(PYTEST)

# The module in a window without Slicer; GUI="--script FILE --screenshot FILE" and others, see Testing/Host.
gui: $(VENV)/.installed-gui
	PYTHONPATH=Testing/Host $(BIN)/python -m host $(GUI)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(VENV)/.installed-test
	$(BIN)/python -m build --wheel

clean:
	rm -rf $(VENV) build dist demo-output *.egg-info .pytest_cache .ruff_cache .coverage*

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed --editable .
	touch $@

$(VENV)/.installed-gui: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[gui]"
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@
