# make setup   the environment in .venv, exactly as requirements.lock says, and page if it can be had; does nothing if all
#              is up to date
# make up      setup, then klagg with its own servers: the live market, or a simulated one where that cannot be reached
#              (ARGS="--no-database" and the like are passed on)
# make page    the chart library of the web page from npm, as its lock file says (Node 18 or newer; nothing else needs it)
# make lint    formatting, lint, spelling: the seconds before each commit (.pre-commit-config.yaml runs it too)
# make check   lint, types, import contracts, the rules of tests/test_architecture.py, dead code, packaging
# make test    setup, check and every test, the real servers included
# make test-fast   what needs neither servers nor long, for people at work
# make test-long   large table engines and a dozen clients of the exchange's (they are installed), every process standing
#              still for a minute, 2,000 worlds of the simulation (SEEDS=2000), and two lines of 600 symbols at 5,000
#              trades/s under losses
# make coverage  which lines and branches the tests run, as a table and in htmlcov/; a figure, no bar that must be passed
#              (ARGS="tests/aggregator" and the like are passed on)
# make chaos   the real processes under 200 times kill -9 and other faults leave the table that they leave without; about
#              13 minutes (SEED=1 KILLS=200; ARGS="--keep" and the like are passed on); the last line says identical
# make soak    half an hour of 600 symbols at 5,000 trades/s under random faults: the table equals the exchange's record, and
#              memory stays flat (SEED=1; ARGS="--minutes 10" and the like are passed on); ARGS="--two-lines": five minutes
#              in which both lines lose a percent of their trades, and either dies; the last line says sound
# make lock    writes requirements.lock and requirements-long.lock anew from pyproject.toml
# make clean   removes the environment and all caches in this folder, never data/
#
# Nothing needs to be activated or installed by hand: python3 (3.11 or newer) and make are enough. Where Debian's python3
# comes without ensurepip, pip's wheel is fetched from Debian's packages.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help setup up page check lint test test-fast test-long coverage chaos soak lock clean

PYTHON ?= python3
BIN := .venv/bin
CHARTS := gateway/web/vendor/lightweight-charts.js
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
ARGS ?=
SEED ?= 1
KILLS ?= 200
SEEDS ?= 2000
# As many at a time as a small machine has cores: the real processes of a test need them in time. One more is faster there.
WORKERS ?= 2
# The tests that make check runs; make test does not run them again.
IN_CHECK := tests/test_architecture.py tests/test_dead.py tests/test_docs.py tests/test_packaging.py tests/test_storeys.py
CHECKED := $(addprefix --ignore ,$(IN_CHECK))

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

# Makes the virtual environment $(1), with some pip.
define make_environment
	command -v $(PYTHON) >/dev/null || { echo "klagg needs Python 3.11 or newer: $(PYTHON) is missing." >&2; exit 1; }
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
	  echo "klagg needs Python 3.11 or newer: $(PYTHON) is $$($(PYTHON) -c 'import platform; print(platform.python_version())')." \
	    "Name another with make PYTHON=python3.12." >&2; exit 1; }
	$(PYTHON) -c 'import venv' 2>/dev/null || { echo "$(PYTHON) lacks its standard library (the module venv)." >&2; exit 1; }
	if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then
	  $(PYTHON) -m venv --clear $(1)
	else
	  $(PYTHON) -m venv --clear --without-pip $(1)
	  wheels=$$(bash klagg/embedded/debian-prefix.sh pip $(1)/bootstrap)/usr/share/python-wheels
	  PYTHONPATH=$$(echo "$$wheels"/pip-*.whl) $(1)/bin/python -m pip --disable-pip-version-check --quiet install pip
	fi
endef

.venv/packages.stamp: requirements.lock
	@echo "klagg: installing the packages of requirements.lock into .venv"
	$(call make_environment,.venv)
	$(PIP) install --no-deps -r requirements.lock
	said=$$($(BIN)/python -m pip check) || { echo "$$said" >&2; exit 1; }
	touch $@

.venv/project.stamp: .venv/packages.stamp pyproject.toml
	@$(PIP) --quiet install --no-deps --no-build-isolation -e .
	touch $@

setup: .venv/project.stamp
	@$(BIN)/python -c '' 2>/dev/null || {
	  echo "The environment .venv no longer works (moved, or its Python is gone): run make clean, then make setup." >&2; exit 1; }
	[ $(CHARTS) -nt gateway/web/package-lock.json ] || $(MAKE) --silent --no-print-directory page ||
	  echo "klagg: everything but the charts of the web page works; make page brings them later." >&2

up: setup
	@exec $(BIN)/klagg up --source auto $(ARGS)

# Exactly what gateway/web/package-lock.json says; nothing of the packages is run.
$(CHARTS): gateway/web/package-lock.json
	@command -v npm >/dev/null || { echo "The page's charts need Node 18 or newer with npm, which are missing here." >&2; exit 1; }
	node -e 'process.exit(Number(parseInt(process.versions.node) < 18))' || {
	  echo "The page's charts need Node 18 or newer: this is $$(node --version)." >&2; exit 1; }
	folder=$$(mktemp -d)
	trap 'rm -rf "$$folder"' EXIT
	cp gateway/web/package.json gateway/web/package-lock.json "$$folder"
	(cd "$$folder" && npm ci --ignore-scripts --no-audit --no-fund --loglevel error >/dev/null)
	charts=$$folder/node_modules/lightweight-charts
	mkdir -p $(@D)
	cp "$$charts/LICENSE" $(@D)/lightweight-charts.LICENSE
	cp "$$charts/dist/lightweight-charts.standalone.production.mjs" $@
	echo "klagg: lightweight-charts $$(node -p 'require("'"$$charts"'/package.json").version') is in $(@D)"

page: $(CHARTS)

lint: setup
	@$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell

check: lint
	@$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q $(IN_CHECK)

# What check runs is not run again. Files stay whole (loadfile) and keep the order that tests/conftest.py gives them.
test: check
	@$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(CHECKED) $(ARGS)

test-fast: setup
	@$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not endtoend and not servers and not slow" $(ARGS)

.venv/long.stamp: .venv/packages.stamp requirements-long.lock
	@$(PIP) install --no-deps -r requirements-long.lock
	touch $@

test-long: setup .venv/long.stamp
	@$(BIN)/pytest -q tests/gateway/test_engines.py
	KLAGG_LONG=1 $(BIN)/pytest -q -s tests/long
	KLAGG_SEEDS=$(SEEDS) $(BIN)/pytest -q -s tests/simulation/test_simulation.py
	$(BIN)/python -m tests.soak --seed $(SEED) --two-lines

# In the processes that tests start too. Not in make test, which it would slow down.
coverage: setup
	@$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n $(WORKERS) --dist loadfile $(ARGS) || failed=$$?
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage html --quiet
	$(BIN)/coverage report
	exit $${failed:-0}

chaos: setup
	@exec $(BIN)/python -m tests.chaos --seed $(SEED) --kills $(KILLS) $(ARGS)

soak: setup
	@exec $(BIN)/python -m tests.soak --seed $(SEED) $(ARGS)

# In an environment of its own, so that nothing but what pyproject.toml asks for, and what that needs, is written down.
lock:
	@folder=$$(mktemp -d)
	trap 'rm -rf "$$folder"' EXIT
	$(call make_environment,"$$folder/venv")
	pip="$$folder/venv/bin/python -m pip --disable-pip-version-check --quiet"
	$$pip install --upgrade pip
	$$pip install "$$(sed -n 's/^requires = \["\(setuptools==.*\)"\]$$/\1/p' pyproject.toml)"
	$$pip install --no-build-isolation '.[test]'
	{
	  echo "# Every package of the environment, exactly. Written by make lock; make setup installs it."
	  $$pip freeze --all --exclude klagg
	} >"$$folder/requirements.lock"
	$$pip install --no-build-isolation '.[test,test-long]'
	{
	  echo "# What make test-long needs beside requirements.lock, exactly. Written by make lock."
	  $$pip freeze --all --exclude klagg | grep -vxFf "$$folder/requirements.lock"
	} >"$$folder/requirements-long.lock"
	mv "$$folder/requirements.lock" requirements.lock
	mv "$$folder/requirements-long.lock" requirements-long.lock
	rm -rf build klagg.egg-info
	cat requirements.lock

clean:
	@rm -rf .venv gateway/web/vendor build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .coverage htmlcov .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
