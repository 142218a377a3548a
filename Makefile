# Every target makes the environment it needs. `make help` lists them.

PYTHON ?= python3.11
# Further arguments of every `pip install`, for example an index that has torch's CPU build.
PIP_ARGS ?=
PYTEST_ARGS ?= -n 2
# How long `make fuzz` looks at each reader; with -runs=N in its place, the same tree gives the same answer.
FUZZ_LIMIT ?= -max_total_time=60

VENV := .venv
MODERN := .venv-modern
EXTRAS := .[data,events,report,train,cluster,outside,docs,dev]
SINABS := .venv-sinabs
TABLES := attention_costs deployment_ladder nir_readers round_trips
# Whose tests `make coverage` runs.
COVERED := tests/converters tests/equivalence tests/hostile tests/interop \
	$(addprefix tests/deploy/test_,portable_cost.py foreign_files.py lava_dl_files.py hard_cases.py)
# What tests/outside and tests/interop compare with, without what it asks for: torchaudio, torchvision, other numpys.
NO_DEPS := neurobench snntorch norse spikingjelly nirtorch
# Cosmic Ray makes the mutants; what it would bring along to store and distribute them is not needed.
MUTANTS := cosmic-ray parso stevedore attrs
PIP_INSTALL = -m pip install --disable-pip-version-check --no-input $(PIP_ARGS)
# Several test processes share the cores: more threads in each would only slow them down.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env demo docs test test-full coverage test-modern test-interop sinabs lint fuzz mutants bench tables clean clean-env

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(VENV)/ready ## make .venv: the package (editable), its tools, and Lava

demo: $(VENV)/ready ## run the demonstration
	$(VENV)/bin/spikefold demo

test: $(VENV)/ready ## run the tests, Lava included, but for those that take long and find little more
	$(ONE_THREAD) $(VENV)/bin/pytest $(PYTEST_ARGS) -m "not full"

test-full: $(VENV)/ready ## run every test
	$(ONE_THREAD) $(VENV)/bin/pytest $(PYTEST_ARGS)

coverage: $(VENV)/ready ## count the branches of converters/ that the tests of arithmetic, converters and files take
	$(VENV)/bin/coverage erase
	$(ONE_THREAD) $(VENV)/bin/coverage run $(VENV)/bin/pytest $(COVERED) -m "not slow and not full and not lava"
	# once more uncompiled, because nothing counts the lines of compiled loops
	NUMBA_DISABLE_JIT=1 $(ONE_THREAD) $(VENV)/bin/coverage run $(VENV)/bin/pytest tests/converters/fast -m "not slow"
	$(VENV)/bin/coverage combine -q
	$(VENV)/bin/coverage report
	$(VENV)/bin/coverage json -q --include='converters/*' -o - | $(VENV)/bin/python -c "import json, sys; \
		t = json.load(sys.stdin)['totals']; print('converters/:', t['covered_branches'], 'of', t['num_branches'], 'branches')"

test-modern: $(MODERN)/ready ## run the fast tests with today's numpy and without Lava
	$(MODERN)/bin/python -c "import numpy; assert int(numpy.__version__.split('.')[0]) >= 2, numpy.__version__"
	$(ONE_THREAD) $(MODERN)/bin/pytest $(PYTEST_ARGS) -m "not slow and not full and not lava"

test-interop: $(VENV)/ready $(SINABS)/ready ## run our portable NIR files in snnTorch, Norse, SpikingJelly and sinabs
	$(ONE_THREAD) $(VENV)/bin/pytest tests/interop

sinabs: $(SINABS)/ready ## make .venv-sinabs, which reads our NIR files in tests/interop

docs: $(VENV)/ready ## build the documentation into docs/_build; a link inside it that leads nowhere is an error
	$(VENV)/bin/sphinx-build -q -W --keep-going -b html docs docs/_build

lint: $(VENV)/ready ## check style, types and the direction of imports
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

fuzz: $(VENV)/ready ## fuzz every reader for a minute (FUZZ_LIMIT), guided by coverage; a find ends it
	$(VENV)/bin/python $(PIP_INSTALL) atheris -c constraints.txt
	PYTHONHASHSEED=0 $(ONE_THREAD) $(VENV)/bin/python tests/hostile/fuzz.py -seed=1 $(FUZZ_LIMIT)

mutants: $(VENV)/ready ## change one operator or number at a time, and list the changes that no test notices
	$(VENV)/bin/python $(PIP_INSTALL) --no-deps $(MUTANTS) -c constraints.txt
	$(ONE_THREAD) $(VENV)/bin/python tests/mutants.py

bench: $(VENV)/ready ## measure on a quiet machine, and write benchmarks/RESULTS.md
	$(VENV)/bin/python benchmarks/_all.py

tables: $(VENV)/ready ## run the nets again whose figures the pages in docs/ show, and write those
	@set -e; for name in $(TABLES); do echo "== $$name"; $(VENV)/bin/python benchmarks/$$name.py; done

clean: ## remove what was built, cached or written, but no environment
	rm -rf build dist demo-out docs/_build .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache .coverage .coverage.*
	find $(wildcard src models converters deploy hardware_configs tests benchmarks) \
		\( -name __pycache__ -o -name '*.egg-info' \) -prune -exec rm -rf {} +

clean-env: ## remove the environments
	rm -rf $(VENV) $(MODERN) $(SINABS)

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

# sinabs asks for nir <= 1.0.4, which cannot read the files of today's nir; with today's nir beside it it works.
$(SINABS)/ready: constraints.txt
	if [ -e $(SINABS)/unfinished ]; then rm -rf $(SINABS); fi
	mkdir -p $(SINABS) && touch $(SINABS)/unfinished && rm -f $@
	$(PYTHON) -m venv $(SINABS)
	$(SINABS)/bin/python $(PIP_INSTALL) $$(grep '^torch==' constraints.txt) setuptools nir matplotlib pbr -c constraints.txt
	$(SINABS)/bin/python $(PIP_INSTALL) --no-deps sinabs nirtorch -c constraints.txt
	rm $(SINABS)/unfinished && touch $@
