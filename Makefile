# Every target makes what it needs: in a fresh clone `make demo` and `make test` are enough.
# A second run finds the stamps (.venv/.ready and so on) and starts at once.

PYTHON ?= python3
ARGS ?=

# The core must also work without torch and on the newest Python there is.
PYTHON_CORE ?= $(shell \
  for python in $(PYTHON) python3.12 python3.13 python3.14 \
    $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/3.1*/bin/python3); do \
    $$python -c 'import sys, ensurepip; v = sys.version_info; v[3] == "final" and print("%d.%d.%d" % v[:3], sys.executable)'; \
  done 2>/dev/null | sort -V | tail -n 1 | cut -d' ' -f2-)

DISTRIBUTION := $(shell . /etc/os-release 2>/dev/null && echo $$ID || uname -s)

INSTALL := -m pip install --quiet --disable-pip-version-check
TYPES := build/types/castore

.PHONY: help demo test test-core test-s3 coverage check bench docs types clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

demo: .venv/.ready ## compute real features once, find them again from another process, plot it
	.venv/bin/python demo/run.py $(ARGS)

test: .venv/.ready ## run all tests (ARGS='-k store -x' goes to pytest)
	.venv/bin/python -m pytest $(ARGS)

test-core: .venv-core/.ready ## run the tests without torch, on the newest Python found
	.venv-core/bin/python -m pytest -m "not slow" $(ARGS)

test-s3: .venv/.ready ## run the tests that want a real S3 server, which is fetched from Debian once
	@if [ "$(DISTRIBUTION)" = debian ]; then \
	  tests/s3/start-s3 install >/dev/null && .venv/bin/python -m pytest -m s3 tests/s3 $(ARGS); \
	else \
	  echo "Skipped: the S3 server is made of Debian's packages, and this is not Debian but: $(DISTRIBUTION)"; \
	fi

coverage: .venv/.ready ## run all tests and name the branches that none takes
	.venv/bin/python -m pytest --cov --cov-report=term-missing $(ARGS)

check: .venv/.ready types ## lint, formatting, types, layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	cd build/types && ../../.venv/bin/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p castore
	.venv/bin/python -m pytest --quiet tests/test_layers.py

bench: .venv/.ready ## compare with the peers, interleaved, in one run
	.venv/bin/python tests/bench/run.py $(ARGS)

docs: .venv/.docs types ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

clean: ## remove all that make has made
	rm -rf .venv .venv-core build dist site demo-output bench-output *.egg-info .coverage .coverage.*
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache

# Type checkers and mkdocstrings read files, so they are shown the installed shape as links.
types:
	@rm -rf build/types && mkdir -p $(TYPES)
	@cd $(TYPES) && ln -s ../../../castore/* ../../../adapters ../../../cli .

.venv/.ready: pyproject.toml constraints/test.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "castore needs Python 3.11 or newer, but $(PYTHON) is: $$($(PYTHON) --version 2>&1)" >&2; \
	  echo "Name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Setting up .venv: torch and the tools, once; some minutes on a slow line."
	$(PYTHON) -m venv .venv
	.venv/bin/python $(INSTALL) -c constraints/test.txt -e '.[bench,check,libraries,s3,test,test-s3,torch]' torchvision
	@touch $@

.venv/.docs: .venv/.ready
	.venv/bin/python $(INSTALL) -c constraints/test.txt -e '.[docs]'
	@touch $@

.venv-core/.ready: pyproject.toml
	@echo "Setting up .venv-core: the core and its tests, without torch."
	"$(PYTHON_CORE)" -m venv --clear .venv-core
	.venv-core/bin/python $(INSTALL) -e '.[test]'
	@touch $@
