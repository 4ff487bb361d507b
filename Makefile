# `make run` sets everything up in .venv and lets the arm do a job; `make test` sets everything up and checks everything.
# PYTHON=...    the interpreter to use (default: python3.11, then 3.10, then anything newer)
# PIP_ARGS=...  extra arguments for pip. On Linux pip may choose PyTorch's CUDA build, several gigabytes that the shipped
#               models do not need: see PyTorch's install page for the CPU index and pass it with --extra-index-url.

VENV ?= .venv
PYTHON ?=
PIP_ARGS ?=
RUN ?= embodied run "put the red cube in the blue bowl" --scene scenes/first.json

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SETTINGS := pyproject.toml constraints.txt
.DEFAULT_GOAL := help
.PHONY: help setup run test test-slow lint format bench mutation clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##/  make \1\t/p' Makefile

setup: $(VENV)/.installed  ## set up .venv and nothing else

run: $(VENV)/.installed  ## set up .venv, then: camera picture, plan, motion, video, report
	$(BIN)/$(RUN)

test: lint  ## set up .venv with the development tools, then every check: lint, types, layers, tests, notebooks
	$(BIN)/python -m pytest
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=600 -W default notebooks

test-slow: $(VENV)/.installed-dev  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed-dev  ## style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev  ## put all code into the common format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-dev  ## speed of simulation, bus and policies on this machine
	$(BIN)/python benchmarks/sim_speed.py
	$(BIN)/python benchmarks/bus_cycle.py
	$(BIN)/python benchmarks/policy_latency.py

mutation: $(VENV)/.installed-dev  ## do the safety tests reach every branch of the safety code, and notice changes of it? takes long
	COVERAGE_FILE=$(VENV)/.coverage $(BIN)/python -m coverage run --branch --source=hardware.safety -m pytest -q tests/test_safety.py tests/test_collision.py
	COVERAGE_FILE=$(VENV)/.coverage $(BIN)/python -m coverage report --fail-under=100
	$(BIN)/python tests/mutation/mutate_safety.py

clean:  ## remove what this Makefile made; runs/ and data/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The first python that is new enough; one for which PyBullet has ready-made wheels (3.11, 3.10) before any other.
$(BIN)/python:
	@set -e; python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
	    for candidate in python3.11 python3.10 python3.12 python3.13 python3.14 python3; do \
	        if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then python=$$candidate; break; fi; \
	    done; \
	fi; \
	if [ -z "$$python" ]; then echo "Python 3.10 or newer was not found; install python3.11, or name one: make PYTHON=/path/to/python" >&2; exit 1; fi; \
	echo "Making $(VENV) with $$($$python --version)"; \
	if ! $$python -m venv $(VENV); then \
	    rm -rf $(VENV); echo "$$python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; \
	fi

# PyBullet has wheels for CPython 3.10 and 3.11 only. Later versions build it; numpy must be there first and build
# isolation off, or its camera pictures come without numpy support and nearly twice as slow.
$(VENV)/.pybullet: $(BIN)/python
	@set -e; if $< -c 'import sys; sys.exit(sys.version_info < (3, 12))'; then \
	    echo "PyBullet has no ready-made package for $$($< --version): it will be built from source now."; \
	    echo "That takes about five minutes of one core and needs g++ and Python's headers. With Python 3.11 it is not needed."; \
	    command -v g++ >/dev/null || { echo "g++ was not found; on Debian and Ubuntu: apt-get install g++ python3-dev" >&2; exit 1; }; \
	    $(PIP) install -q $(PIP_ARGS) -c constraints.txt numpy setuptools wheel; \
	    $(PIP) install $(PIP_ARGS) -c constraints.txt --no-build-isolation --no-cache-dir pybullet; \
	fi
	@touch $@

$(VENV)/.installed: $(VENV)/.pybullet $(SETTINGS)
	$(PIP) install -q $(PIP_ARGS) -c constraints.txt -e .
	@$(call headless_if_needed)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.pybullet $(SETTINGS)
	$(PIP) install -q $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@$(call headless_if_needed)
	@touch $@ $(VENV)/.installed

# opencv-python needs libGL and glib from the system; a machine without them gets the build that does not.
define headless_if_needed
$(BIN)/python -c 'import cv2' 2>/dev/null || { echo "OpenCV's windows need libraries this machine lacks (libGL): using its headless build"; \
	$(PIP) install -q $(PIP_ARGS) -c constraints.txt --force-reinstall --no-deps opencv-python-headless; $(BIN)/python -c 'import cv2'; }
endef
