# make book | test | test-full | notebooks | clean      Everything runs in the active conda or virtual environment, or in
# .venv, which is made when there is none. Installing is skipped while pyproject.toml and constraints.txt stay the same.
#
# BOOK_PRESET=laptop|smoke|workstation|imigue   what the book is built with (book/_ext/paperbook_run.py lists BOOK_*)
# BOOK_FLAGS="-W --keep-going"                  given to jupyter-book
# TESTS=tests/data                              which tests
# WORKERS=auto                                  processes that test: one per core, four at most; 0 for this one alone
# COVER_MIN=90                                  percent of migcore that the tests must reach
# INSTALL=no                                    trust the environment as it is

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := book
.PHONY: book test test-full check install-book install-dev notebooks clean

PYTHON ?= python3
BOOK_FLAGS ?=
TESTS ?= tests
COVER_MIN ?= 90
WORKERS ?= auto
INSTALL ?= yes

# conda's base environment is nobody's project: it counts as none
conda := $(if $(filter base,$(CONDA_DEFAULT_ENV)),,$(CONDA_PREFIX))
environment := $(firstword $(VIRTUAL_ENV) $(conda) .venv)
bin := $(environment)/bin
# jupyter-book finds its kernel, and the tests find jupyter-book, by the path
export PATH := $(abspath $(bin)):$(PATH)

book: install-book
	@version="$$(jupyter-book --version 2>&1 || true)"; version="$${version%%$$'\n'*}"; case "$$version" in \
	"Jupyter Book"*": 1."*) ;; \
	*) echo "error: the book needs jupyter-book 1.0.4.post1 and found '$$version'; version 2 would build nothing and call it \
	success. Run: python -m pip install -e '.[book]' -c constraints.txt" >&2; exit 1 ;; esac
	jupyter-book build book $(BOOK_FLAGS)

test: marker := not full
test-full: marker :=
test test-full: check
	python -m pytest -m "$(marker)" -n $(WORKERS) --maxprocesses 4 --cov=migcore --cov-report=term --cov-fail-under=$(COVER_MIN) $(TESTS)

check: install-dev
	ruff check .
	ruff format --check .
	mypy -p migcore
	lint-imports

install-book: extras := book
install-dev: extras := book,dev
# The stamp in the environment holds the hash of what decides the installation, and the extras that are in.
install-book install-dev: | $(bin)/python
ifneq ($(INSTALL),no)
	@wanted=$$(python -c 'import hashlib, sys; print(hashlib.sha256("\0".join([sys.argv[1], *(open(f).read() for f in \
	sys.argv[2:])]).encode()).hexdigest())' "$(CURDIR)" pyproject.toml constraints.txt); \
	stamp="$(environment)/.migcore-installed"; had=$$(cat "$$stamp" 2>/dev/null || true); \
	case "$$had" in "$$wanted book,dev" | "$$wanted $(extras)") exit 0 ;; esac; \
	echo "installing migcore[$(extras)] into $(environment)"; \
	python -m pip install --quiet --disable-pip-version-check -e '.[$(extras)]' -c constraints.txt && \
	echo "$$wanted $(extras)" > "$$stamp"
endif

$(bin)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "error: migcore needs Python \
	3.11 to 3.13, and $(PYTHON) is $$($(PYTHON) --version); say which: make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(environment)

notebooks: install-book  # write notebooks/*.ipynb anew from notebooks/*.py
	python book/_ext/paperbook_pair.py

clean:
	rm -rf _build book/notebooks
