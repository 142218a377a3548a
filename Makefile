# Every target makes the environment it needs. `make help` lists them.

PYTHON ?= python3.11
# Further arguments of every `pip install`, for example an index that has torch's CPU build.
PIP_ARGS ?=
PYTEST_ARGS ?= -n 2

VENV := .venv
MODERN := .venv-modern
EXTRAS := .[data,events,report,train,outside,dev]
# What tests/outside compares with, without what it asks for: its data sets would bring torchaudio and more along.
NO_DEPS := neurobench snntorch
PIP_INSTALL = -m pip install --disable-pip-version-check --no-input $(PIP_ARGS)
# Several test processes share the cores: more threads in each would only slow them down.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env demo test test-modern lint bench clean clean-env

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(VENV)/ready ## make .venv: the package (editable), its tools, and Lava

demo: $(VENV)/ready ## run the demonstration
	$(VENV)/bin/spikefold demo

test: $(VENV)/ready ## run the whole test suite, Lava included
	$(ONE_THREAD) $(VENV)/bin/pytest $(PYTEST_ARGS)

test-modern: $(MODERN)/ready ## run the fast tests with today's numpy and without Lava
	$(MODERN)/bin/python -c "import numpy; assert int(numpy.__version__.split('.')[0]) >= 2, numpy.__version__"
	$(ONE_THREAD) $(MODERN)/bin/pytest $(PYTEST_ARGS) -m "not slow and not lava"

lint: $(VENV)/ready ## check style, types and the direction of imports
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: $(VENV)/ready ## run every program in benchmarks/
	@set -e; for program in benchmarks/[a-z]*.py; do echo "== $$program"; $(VENV)/bin/python "$$program"; done

clean: ## remove what was built, cached or written, but no environment
	rm -rf build dist demo-out .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache .coverage .coverage.*
	find $(wildcard src models converters deploy hardware_configs tests benchmarks) \
		\( -name __pycache__ -o -name '*.egg-info' \) -prune -exec rm -rf {} +

clean-env: ## remove the environments
	rm -rf $(VENV) $(MODERN)

# An environment is ready once its last step is done. One that was interrupted on the way is not trusted but made anew.
# torch comes first and by its exact version: asked for in any other way, pip may fetch gigabytes of GPU libraries.
$(VENV)/ready: pyproject.toml constraints.txt
	if [ -e $(VENV)/unfinished ]; then rm -rf $(VENV); fi
	mkdir -p $(VENV) && touch $(VENV)/unfinished && rm -f $@
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python $(PIP_INSTALL) $$(grep '^torch==' constraints.txt) setuptools -c constraints.txt
	$(VENV)/bin/python $(PIP_INSTALL) --no-build-isolation -e '$(EXTRAS)' asteval -c constraints.txt
	$(VENV)/bin/python $(PIP_INSTALL) --no-deps $(NO_DEPS) -c constraints.txt
	$(VENV)/bin/python $(PIP_INSTALL) --no-deps --ignore-requires-python lava-nc lava-dl -c constraints.txt
	rm $(VENV)/unfinished && touch $@

$(MODERN)/ready: pyproject.toml constraints.txt
	if [ -e $(MODERN)/unfinished ]; then rm -rf $(MODERN); fi
	mkdir -p $(MODERN) && touch $(MODERN)/unfinished && rm -f $@
	$(PYTHON) -m venv $(MODERN)
	grep -v '^numpy==' constraints.txt > $(MODERN)/constraints.txt
	$(MODERN)/bin/python $(PIP_INSTALL) $$(grep '^torch==' constraints.txt) setuptools -c $(MODERN)/constraints.txt
	$(MODERN)/bin/python $(PIP_INSTALL) --no-build-isolation --upgrade -e '$(EXTRAS)' 'numpy>=2' -c $(MODERN)/constraints.txt
	$(MODERN)/bin/python $(PIP_INSTALL) --no-deps $(NO_DEPS) -c $(MODERN)/constraints.txt
	rm $(MODERN)/unfinished && touch $@
