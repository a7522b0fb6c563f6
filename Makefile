# Every target makes what it needs: a virtual environment here, and a RabbitMQ where one is wanted.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The package alone, and with what it is worked on.
PACKAGE := $(VENV)/.package
DEV := $(VENV)/.dev
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST_ARGS ?=
# Most tests wait for brokers and processes. Each worker has a RabbitMQ of its own.
WORKERS ?= auto

.PHONY: help venv referees demo test check bench soak generate clean

help:
	@echo "make demo      a broker, a text file of 250,000 lines through a stream and back, compared byte for byte"
	@echo "make test      the tests, against a real RabbitMQ where one can be had (RSTREAM_REQUIRE_RABBITMQ=1: must)"
	@echo "make referees  installs what the codec is compared with; a C compiler is needed"
	@echo "make check     ruff and mypy"
	@echo "make bench     the benchmarks, as ratios measured in one run"
	@echo "make soak      long runs: kills, hostile input, a ledger, a fresh machine; PARTS=\"kill fuzz\" chooses"
	@echo "make generate  writes the generated files again: completions/, docs/cli.md and a table"

venv: $(DEV)

$(PACKAGE): pyproject.toml hatch_build.py
	$(PYTHON) -c 'import sys; sys.exit("error: Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --editable .
	touch $@

$(DEV): $(PACKAGE)
	$(PIP) install --upgrade 'pip>=25.1'
	$(PIP) install --group dev
	$(BIN)/python scripts/install_uamqp.py
	touch $@

referees: $(DEV)
	$(PIP) install --group referees

demo: $(PACKAGE)
	scripts/demo

test: $(DEV)
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(DEV)
	$(BIN)/python -m benchmarks

soak: $(DEV)
	scripts/soak $(PARTS)

generate: $(DEV)
	$(BIN)/python scripts/generate.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
