# What one does with a clone. `make help` lists it; needs make and Python 3.11 or newer, nothing else.

VENV := .venv
BIN := $(VENV)/bin
# A particular interpreter: make PYTHON=python3.12 …  (else the newest of python3.13, 3.12, 3.11, python3)
PYTHON ?=
ADDRESS ?= 127.0.0.1:8080
PYTEST_ARGS ?=
# Test processes at a time: most tests wait for something.
JOBS ?= 4
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help run test test-all test-long chaos bench lint format docs reference clean distclean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/python:
	@scripts/make-venv $(VENV) "$(PYTHON)"

# One stamp for each set of extras: pip only runs when pyproject.toml has changed.
$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	@echo "installing instar[$*] into $(VENV) …"
	@$(PIP) -e '.[$*]'
	@touch $@

# The real uWSGI, built from its source package: without a compiler the tests that need it say so and skip.
$(VENV)/.tried-uwsgi: $(VENV)/.installed-dev
	@$(PIP) -e '.[uwsgi]' || echo "cannot build uWSGI (it needs gcc and Python's headers): its tests will skip"
	@touch $@

run: $(VENV)/.installed-example ## Serve the example application and say what to try next
	@echo 'The example is about to serve on http://$(ADDRESS) (Ctrl-C stops it). In another terminal try:'
	@echo '  $(BIN)/instar status  -c examples/notes/instar.toml'
	@echo '  $(BIN)/instar restart -c examples/notes/instar.toml    # change examples/notes/app.py before, reload the page after'
	@echo '  $(BIN)/instar logs -f -c examples/notes/instar.toml'
	@echo
	@exec $(BIN)/instar run -c examples/notes/instar.toml --bind $(ADDRESS)

test: $(VENV)/.tried-uwsgi ## Run the tests (below 10 minutes)
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

test-all: test test-long ## Run the tests, then the long promise runs

test-long: $(VENV)/.tried-uwsgi
	@$(BIN)/python -m pytest -m long -n 2 --dist worksteal $(PYTEST_ARGS)

chaos: $(VENV)/.installed-dev ## Faults at random under load (CHAOS_FAULTS=300, CHAOS_SEED=… repeats a run)
	@CHAOS_FAULTS=$${CHAOS_FAULTS:-300} $(BIN)/python -m pytest -m long -s $(PYTEST_ARGS) tests/acceptance/test_chaos.py

bench: $(VENV)/.installed-dev ## Compare with other servers (they are installed into .venv-bench)
	@$(BIN)/python -m bench $(BENCH_ARGS)

lint: $(VENV)/.installed-dev ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/.installed-dev ## Repair style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

reference: $(VENV)/.installed-dev ## Write the generated pages of docs/
	@$(BIN)/python scripts/cli_reference.py > docs/cli.md
	@$(BIN)/python -m instar.config.docs docs/configuration.md
	@$(BIN)/python -m instar.uwsgi.docs docs/uwsgi-options.md

docs: $(VENV)/.installed-docs ## Build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "open site/index.html"

clean: ## Remove what was built
	@rm -rf site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -path './.venv*' -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

distclean: clean ## Remove the virtual environments as well
	@rm -rf .venv .venv-*
