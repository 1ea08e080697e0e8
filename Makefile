# make serve | test | test-full: each sets up what it needs first, and does so only once.
# ARGS is passed on: make serve ARGS="--http-port 9000", make test ARGS="-k qido -x".

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help serve test test-full lint types imports format lock bench clean distclean packages

BIN := .venv/bin
RUN := .venv/.run
TESTS := .venv/.tests
VIEWERS := wsi/npm.py wsi/ohif.py wsi/openlayers.py

help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

# The stamp of the tests satisfies that of the program: the second lock is a superset of the first.
$(RUN): requirements.lock pyproject.toml infra/scripts/environment.sh $(VIEWERS)
	@if [ -e $(TESTS) ]; then infra/scripts/environment.sh tests/requirements.lock; else infra/scripts/environment.sh requirements.lock; fi
	@touch $@

$(TESTS): tests/requirements.lock requirements.lock pyproject.toml infra/scripts/environment.sh $(VIEWERS)
	@infra/scripts/environment.sh tests/requirements.lock
	@touch $(RUN) $@

serve: $(RUN)  ## Run the archive on http://127.0.0.1:8042 (data in ./anor-data)
	@exec $(BIN)/anor serve $(ARGS)

packages:
ifneq ($(PACKAGES),no)
	@infra/scripts/test-packages.sh
endif

# Two at a time: tests wait for disks, processes and peers more than they compute. Those of a file stay together. The levels that
# slides lack are made a hundred times slower while another test computes, so their tests come by themselves.
ALONE := tests/db/test_derived.py
test: $(TESTS) packages  ## All tests but the long ones; installs what they need
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not full" --ignore $(ALONE) $(ARGS)
	@$(if $(ARGS),,$(BIN)/python -m pytest -m "not full" $(ALONE))

test-full: $(TESTS) packages  ## All tests, and those of the database again on Debian's PostgreSQL 15
	@$(BIN)/python -m pytest $(ARGS)
	@if [ -x /usr/lib/postgresql/15/bin/postgres ]; then \
	  ANOR_POSTGRES_BIN=/usr/lib/postgresql/15/bin $(BIN)/python -m pytest tests/db tests/http -m "not full"; \
	else echo "PostgreSQL 15 is not installed: its run is left out"; fi

lint: $(TESTS)  ## ruff, and the contracts between packages
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: $(TESTS)  ## mypy, strict
	@$(BIN)/mypy

format: $(TESTS)  ## Bring the code into shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: $(TESTS)  ## Resolve all dependencies again
	@infra/scripts/lock.sh $(ARGS)

bench: $(TESTS)  ## Side by side with Orthanc; see infra/docs/benchmark.md
	@$(BIN)/python -m tests.bench $(or $(ARGS),run)

clean:  ## Remove what tools leave behind; keeps .venv and anor-data
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* htmlcov build
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean  ## Remove the environment too
	@rm -rf .venv anor.egg-info
