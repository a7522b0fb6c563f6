# Every target makes what it needs: a virtual environment here, and a RabbitMQ where one is wanted.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST_ARGS ?=
# Most tests wait for brokers and processes. Each worker has a RabbitMQ of its own.
WORKERS ?= auto

.PHONY: help venv demo test check bench generate clean

help:
	@echo "make demo      a broker, a text file of 250,000 lines through a stream and back, compared byte for byte"
	@echo "make test      the tests, against a real RabbitMQ where one can be had (RSTREAM_REQUIRE_RABBITMQ=1: must)"
	@echo "make check     ruff and mypy"
	@echo "make bench     the benchmarks, as ratios measured in one run"
	@echo "make generate  writes the generated files again: completions/, docs/cli.md and a table"

venv: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("error: Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $@

demo: $(STAMP)
	scripts/demo

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m benchmarks

generate: $(STAMP)
	$(BIN)/python scripts/generate.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
