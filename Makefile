# make demo: install, then compare a small network with and without the layer.
# make test: install, then run all tests.   make quick: run those that need no training, in a minute.
# make soak: run those that are too slow for every change, such as twenty kills at random moments.
# make docs: build the site into build/site. Whatever Sphinx warns of is an error, dead links between pages too.
# make links: ask the internet whether the addresses on the pages of the site are still there.
# make test-lowest, make test-newest: run the tests in environments of their own, with the lowest versions that
# pyproject.toml allows and with the newest there are.
PYTHON ?= python3
VENV := .venv

VALUES := tests/test_functional.py tests/test_tables.py tests/test_recipes.py tests/kernels tests/layer tests/training/test_training_settings.py

SITE := build/site

.PHONY: demo test quick soak docs links test-lowest test-newest lint clean

demo: $(VENV)/.installed-demo
	@echo 'Training a small network alone (plain) and behind the JPEG layer (jpeg-dl), with 3 seeds each,'
	@echo 'on crops of 18 photographs. It takes about 2 minutes on 2 cores. Kill it at any time: make demo goes on.'
	$(VENV)/bin/jpegdl compare --config demo

test: $(VENV)/.installed-test
	@echo 'Running all tests, side by side on all cores: about 5 minutes on 2 cores.'
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist worksteal

quick: $(VENV)/.installed-test
	@echo 'Running the tests of the layer, its functions, its CPU kernels and the settings: about a minute.'
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist worksteal -k 'not triton and not cuda and not two_steps' $(VALUES)

soak: $(VENV)/.installed-test
	@echo 'Running the tests that are too slow for every change, one by one: it takes minutes.'
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m soak

docs: $(VENV)/.installed-docs
	@echo 'Building the site into $(SITE): about a minute. A warning or a dead link is an error.'
	$(VENV)/bin/python -m sphinx -c docs -d build/doctrees -W --keep-going --quiet . $(SITE)
	@echo 'Open $(SITE)/index.html'

links: $(VENV)/.installed-docs
	$(VENV)/bin/python -m sphinx -b linkcheck -c docs -d build/doctrees --quiet . build/links

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("jpegdl needs Python 3.11 or newer, got " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-%: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo 'Installing jpegdl with its extra "$*" into $(VENV). The first time, this takes minutes and about 5 GB.'
	@echo 'For the much smaller CPU build of PyTorch, stop here and read docs/how-to/install.md.'
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[$*]'
	touch $@

test-lowest:
	$(PYTHON) -m venv --clear $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet uv
	$(VENV)-lowest/bin/uv pip install --python $(VENV)-lowest/bin/python --resolution lowest-direct --editable '.[test]'
	OMP_NUM_THREADS=1 $(VENV)-lowest/bin/python -m pytest -n auto --dist worksteal

test-newest:
	$(PYTHON) -m venv --clear $(VENV)-newest
	$(VENV)-newest/bin/python -m pip install --quiet --editable '.[test]'
	OMP_NUM_THREADS=1 $(VENV)-newest/bin/python -m pytest -n auto --dist worksteal

clean:
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-newest build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
