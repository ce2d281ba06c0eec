# make demo: install and run the main job.   make test: install and run the tests.
# make quick: those of the layer, its functions, its kernels on the CPU and the settings, in a minute.
# make soak: those that take too long for every change, such as twenty kills at random moments.
# make docs: the site, into build/site; whatever Sphinx would warn of, dead links between pages too, is an error.
# make test-lowest, make test-newest: the tests in environments of their own, with the lowest versions that pyproject.toml
# allows and with the newest there are.
PYTHON ?= python3
VENV := .venv

VALUES := tests/test_functional.py tests/test_tables.py tests/test_recipes.py tests/kernels tests/layer tests/training/test_training_settings.py

SITE := build/site

.PHONY: demo test quick soak docs test-lowest test-newest lint clean

demo: $(VENV)/.installed-demo
	$(VENV)/bin/jpegdl compare --config demo

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist worksteal

quick: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist worksteal -k 'not triton and not cuda and not two_steps' $(VALUES)

soak: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m soak

docs: $(VENV)/.installed-docs
	$(VENV)/bin/python -m sphinx -c docs -d build/doctrees -W --keep-going --quiet . $(SITE)
	@echo 'open $(SITE)/index.html'

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("jpegdl needs Python 3.11 or newer, got " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-%: $(VENV)/bin/python pyproject.toml constraints.txt
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
