# On a fresh machine: `make demo`, `make test`. Another Python: PYTHON=python3.12 make test.
# ARGS goes to the program behind a target: make test ARGS="tests/unit -k cron".
.DEFAULT_GOAL := help
.PHONY: help setup demo lab test test-newest check format docs pictures bench constraints clean

VENV ?= .venv
export VENV
python := $(VENV)/bin/python
WORKERS ?= 2

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## virtual environment (VENV, else .venv) with all that the other targets need
	@tools/setup.sh

demo: setup ## the notebook from first to last cell: a year of flights, drift, retraining
	@$(python) tools/demo.py $(ARGS)

lab: setup ## JupyterLab on the notebooks
	@$(python) -m jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS) notebooks

test: setup ## all tests, with real servers of Redis and PostgreSQL and a real browser
	@server=$$(tools/redis.sh) && browser=$$(tools/chromium.sh) && postgres=$$(tools/postgres.sh) && \
	echo "==> tests, with $$server, $$postgres and $$browser" && \
	export KERNELS && KERNELS=$$(tools/kernels.sh) && \
	REDIS_SERVER=$$server CHROMIUM=$$browser POSTGRES_BIN=$$postgres $(python) -m pytest -n $(WORKERS) $(ARGS)

test-newest: ## the unit and conformance tests on the newest Python of this machine, in an environment of its own
	@newest=$$(tools/newest_python.sh) && \
	$(MAKE) --no-print-directory test PYTHON=$$newest VENV=.venv-newest ARGS="tests/unit tests/conformance $(ARGS)"

check: setup ## lint, formatting and types
	@echo "==> ruff check" && $(python) -m ruff check
	@echo "==> ruff format --check" && $(python) -m ruff format --check
	@echo "==> mypy --strict sagaz_lab" && $(python) -m mypy

format: setup ## put the code into the form that `make check` wants
	@$(python) -m ruff check --fix
	@$(python) -m ruff format

docs: setup ## write the parts and pictures of docs/ that are made from the code
	@$(python) tools/docs.py $(ARGS)

pictures: setup ## take the pictures of docs/ that show a page
	@browser=$$(tools/chromium.sh) && CHROMIUM=$$browser $(python) -m pytest -q tests/browser/test_live_notebook.py
	@for name in dashboard-light dashboard-dark shadow; do cp build/browser/docs-$$name.png docs/pictures/$$name.png; done

bench: setup ## measure
	@tools/setup.sh bench
	@server=$$(tools/redis.sh) && REDIS_SERVER=$$server $(python) -m tests.benchmarks $(ARGS)

constraints: ## write constraints.txt anew: the newest versions that go together
	@tools/constraints.sh

clean: ## remove the environments and everything else that was made here, but no store
	rm -rf .venv .venv-newest .setup.lock build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
