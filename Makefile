# Two commands do everything on a fresh machine: `make demo` and `make test`. Each makes .venv when it is missing.
PYTHON ?= python3
# The CPU build of torch is 0.2 GB; the default of the package index on Linux brings gigabytes of CUDA. For a GPU: make demo TORCH_INDEX=https://pypi.org/simple
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

# The tests run in two processes, which steal work from each other. In one, in the order of the files: make test PROCESSES=0
PROCESSES ?= 2

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
SETUP := pyproject.toml constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PROCESSES) --dist worksteal

.PHONY: demo test test-all check coverage bench bundles docs clean help

help:
	@echo "make demo      the whole flow on a made cohort, in minutes (results in demo/)"
	@echo "make test      the tests"
	@echo "make check     ruff, mypy, import layers"
	@echo "make coverage  the tests, with coverage of the package"
	@echo "make bench     speed and memory against named rivals and the limit of the machine (benchmarks/results/)"
	@echo "make bundles   compose bundles/NAME/configs from bundles/common and bundles/NAME/model.json"
	@echo "make docs      the site, in site/; a warning is an error"
	@echo "make clean     remove .venv and caches"

demo: .venv/.package
	$(BIN)/medanomaly demo --output demo

test: .venv/.dev
	$(PYTEST)

test-all: .venv/.dev
	$(PYTEST) -m "slow or not slow"

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

coverage: .venv/.dev
	$(PYTEST) --cov

bench: .venv/.dev
	$(BIN)/python -m benchmarks

bundles: .venv/.package
	$(BIN)/medanomaly compose $(dir $(wildcard bundles/*/model.json))

docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open site/index.html; to search in it, too: $(BIN)/python -m http.server --directory site, and localhost:8000"

clean:
	rm -rf site .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.venv/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 13) else f"Python 3.10 to 3.13 is needed, but $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv .venv
	@echo "Installing into .venv (about a minute where packages come fast) ..."
	@$(PIP) install --retries 0 --timeout 10 --no-deps --index-url $(TORCH_INDEX) -c constraints.txt torch 2>/dev/null \
		|| $(PIP) install -c constraints.txt torch
	@touch $@

.venv/.package: .venv/.torch $(SETUP)
	@PIP_CONSTRAINT=constraints.txt $(PIP) install -e .
	@touch $@

.venv/.dev: .venv/.torch $(SETUP)
	@PIP_CONSTRAINT=constraints.txt $(PIP) install -e '.[dev]'
	@touch $@ .venv/.package

.venv/.docs: .venv/.torch $(SETUP)
	@PIP_CONSTRAINT=constraints.txt $(PIP) install -e '.[docs]'
	@touch $@ .venv/.package
