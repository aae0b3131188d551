# Commands of a checkout. `make help` lists them.

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder
LOCKED := --require-hashes --no-build-isolation --requirement requirements.lock
# The stamp says that .venv matches the two files below. While a set-up is under way, `unfinished`
# lies there instead; a set-up that finds it starts from an empty .venv.
STAMP := $(VENV)/.setup-done
UNFINISHED := $(VENV)/.setup-unfinished
# TensorFlow as pinned by the lock has wheels for these.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))

# The page, and the runs that its browser tests show. Both come from `make` only, not from git.
WEB := export/web
WEB_TOOLS := $(WEB)/node_modules/.installed
PAGE := $(WEB)/node_modules/.page-built
PAGE_SOURCES := $(shell find $(WEB)/src $(WEB)/build $(WEB)/public -type f) \
  $(addprefix $(WEB)/, index.html vite.config.ts tsconfig.json tsconfig.workers.json)
WEB_RUNS := build/web-runs
RUNS_MADE := $(WEB_RUNS)/.made
NODE_SUPPORTED := const [a, b] = process.versions.node.split(".").map(Number); \
  process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)
CHROMIUM ?= $(firstword $(foreach name,chromium chromium-browser google-chrome,$(shell command -v $(name))))
PICTURE ?= build/web/page.png

.DEFAULT_GOAL := help
.PHONY: setup train test test-all test-web has-chromium web lint format lock bench docs clean help

setup: $(STAMP) ## make .venv from requirements.lock (PYTHON=python3.12 picks the interpreter)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c '$(SUPPORTED)' || { \
	  echo "Expected Python 3.11, 3.12 or 3.13. Received: $(PYTHON), $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another interpreter, for example: make setup PYTHON=python3.11" >&2; exit 1; }
	@echo "Setting up $(VENV) from requirements.lock: a minute or more and 3 GB of disk the first time."
	@if test -e $(UNFINISHED) || ! $(BIN)/python -m pip --version >/dev/null 2>&1 \
	    || ! $(BIN)/python -c '$(SUPPORTED)'; \
	  then $(PYTHON) -m venv --clear $(VENV); fi
	@rm -f $(STAMP) && touch $(UNFINISHED)
	@# In the lock's versions: setuptools, so that the one dependency that comes only as source is
	@# built the same way every year, and uv, which installs in a third of pip's time.
	@awk '/^[^ #]/ { wanted = /^(setuptools|uv)==/ } wanted' requirements.lock > $(VENV)/first.lock
	$(PIP) install --require-hashes --requirement $(VENV)/first.lock
	@# Without configuration, as the constraint in pyproject.toml, for `make lock`, has no hash. If
	@# the packages can be reached only through some configuration, or pip's, pip takes over.
	$(BIN)/uv pip install --no-config --python $(BIN)/python --compile-bytecode $(LOCKED) \
	  || $(PIP) install $(LOCKED)
	$(PIP) install --no-deps --no-build-isolation --editable .
	@rm $(UNFINISHED) && touch $(STAMP)

train: setup ## train a sparse LeNet (ARGS="--model lenet300 --dataset mnist ..." to choose)
	$(BIN)/python train.py $(ARGS)

test: setup ## run the tests (ARGS="-k name" to choose); those in a browser are `make test-web`
	$(PYTEST) -m "not endurance" $(ARGS)
	@echo "Without a browser. The page's own tests need one: make test-web"

test-all: setup ## run the tests, those with several processes that are killed, too
	$(PYTEST) $(ARGS)

web: $(PAGE) ## build the page that `python -m export serve` shows (Node.js 20.19+ and npm)

$(PAGE): $(WEB_TOOLS) $(PAGE_SOURCES)
	cd $(WEB) && npm run --silent build
	@touch $@

$(WEB_TOOLS): $(WEB)/package.json $(WEB)/package-lock.json
	@node -e '$(NODE_SUPPORTED)' && command -v npm >/dev/null || { \
	  echo "Expected Node.js 20.19 or later, with npm. Received: $$(node --version 2>&1)" >&2; \
	  exit 1; }
	cd $(WEB) && npm ci
	@touch $@

test-web: has-chromium setup web $(RUNS_MADE) ## test the page in a browser (CHROMIUM=path picks one)
	cd $(WEB) && npm run --silent check && CHROMIUM="$(CHROMIUM)" WEB_RUNS="$(abspath $(WEB_RUNS))" \
	  PICTURE="$(abspath $(PICTURE))" npm test --silent

has-chromium:
	@test -x "$(CHROMIUM)" || { \
	  echo "Expected Chromium. Received: '$(CHROMIUM)'. On Debian: apt-get install chromium" >&2; \
	  exit 1; }

$(RUNS_MADE): tests/web/make_runs.py $(wildcard export/*.py export/compact/*.py)
	PYTHONPATH=. $(BIN)/python tests/web/make_runs.py $(WEB_RUNS)
	@touch $@

lint: setup ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## format the code and mend what ruff can mend
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

lock: ## write requirements.lock from pyproject.toml (ARGS=--upgrade for newer versions)
	@# Not a prerequisite: a set-up from a lock that can't be installed would fail, and then this
	@# could not mend the lock.
	@test -x $(BIN)/uv || $(MAKE) setup
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --extra compare --extra pquant --extra tune --group dev --custom-compile-command "make lock" \
	  --output-file requirements.lock $(ARGS) pyproject.toml

bench: setup ## measure steps, files and growth; tables, and JSON in build/bench (about 20 minutes on two cores)
	mkdir -p build/bench
	$(BIN)/python benchmarks/step_time.py --model lenet300 --task-steps 16 --switcher orthogonal --json build/bench/step_time-lenet300.json
	$(BIN)/python benchmarks/step_time.py --model lenet --task-steps 16 --rounds 5 --json build/bench/step_time-lenet.json
	$(BIN)/python benchmarks/export_files.py --json build/bench/export_files.json
	$(BIN)/python benchmarks/scaling.py --json build/bench/scaling.json

docs: setup ## build the documentation site into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean: ## remove build outputs and caches; .venv and runs stay
	rm -rf build dist $(WEB)/dist $(PAGE) .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -path ./$(WEB)/node_modules -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) \
	  | awk -F '\t' '{ printf "  make %-8s %s\n", $$1, $$2 }'
