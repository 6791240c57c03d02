# make run | test | test-all | check | format | notebooks | docs | bench | gpu | size | clean.
# Each installs what it needs into .venv (bench: .venv-keras too), nothing elsewhere.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Threads that wait must not spin: spinning is ruinous beside any other busy process (LOG.md).
export OMP_WAIT_POLICY ?= passive

.PHONY: run test test-all check format notebooks docs bench gpu size clean

run: $(VENV)/.core  ## the notebook's study, quick preset: trains, attacks, prints, reports
	$(BIN)/nullclass study fgsm-null

# One thread per worker: several workers share the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

test: $(VENV)/.dev  ## all but the slow tests
	$(PYTEST) --dist loadfile -m "not slow"

test-all: test  ## and the slow tests, of which some files take as long as all others
	$(PYTEST) --dist load -m slow

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: $(VENV)/.notebooks  ## executes notebooks/*.py; writes notebooks/*.ipynb
	$(BIN)/python docs/notebooks.py

docs: $(VENV)/.docs  ## the documentation site, offline: build/docs/site/index.html
	$(BIN)/python docs/website.py

bench: $(VENV)/.bench $(VENV)-keras/.keras  ## most of an hour; writes benchmarks/results.md
	$(BIN)/python benchmarks/run.py

gpu: $(VENV)/.core  ## on one NVIDIA GPU, at most nine minutes; writes benchmarks/results-gpu.md
	$(BIN)/python benchmarks/gpu.py

# A stamp is written last, so that an interrupted installation is done again.
$(VENV)/.core: pyproject.toml constraints.txt
	@echo "setting up $(VENV) (torch alone is about 200 MB; once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nullclass needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) -e '.[dev]'
	@touch $@

$(VENV)/.notebooks: $(VENV)/.core
	$(PIP) -e '.[notebooks]'
	@touch $@

$(VENV)/.docs: $(VENV)/.core
	$(PIP) -e '.[docs]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev benchmarks/requirements.txt
	$(PIP) -r benchmarks/requirements.txt
	$(PIP) --no-deps $$(sed -n 's/^# no-deps: //p' benchmarks/requirements.txt)
	@touch $@

# TensorFlow is a peer of the benchmarks only, in an environment of its own.
$(VENV)-keras/.keras: benchmarks/requirements-keras.txt
	$(PYTHON) -m venv $(VENV)-keras
	$(VENV)-keras/bin/python -m pip install --quiet -r benchmarks/requirements-keras.txt
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-keras .pytest_cache .mypy_cache .ruff_cache .hypothesis

size:  ## lines of Python in the package and in the tests
	@find src/nullclass -name '*.py' | xargs cat | wc -l | sed 's/^/src\/nullclass: /'
	@find tests -name '*.py' | xargs cat | wc -l | sed 's/^/tests: /'
