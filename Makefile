# Every target makes what it needs: a virtual environment here, and a RabbitMQ where one is wanted.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The package alone, and with what it is worked on.
PACKAGE := $(VENV)/.package
DEV := $(VENV)/.dev
# What the compiled part is made of, where there is a C compiler.
COMPILED := hatch_compile.py rstream_core/protocol/_wire.c
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST_ARGS ?=
# Every pin in these files has its hashes, and pip then takes nothing without one.
LOCKED := --require-hashes --requirement
# A number, or auto: two for each processor, as most tests wait (tests/conftest.py). Each has a RabbitMQ of its own.
WORKERS ?= auto
# What calls the seam: `make test` begins with these in pure Python, where the compiled part is there.
PURE_TESTS ?= tests/conformance/test_publisher.py tests/conformance/test_subscription.py \
	tests/conformance/test_pieces.py tests/conformance/test_delivery.py tests/unit/test_publish_records.py \
	tests/unit/test_stream_sink.py tests/unit/test_arrivals.py tests/cli/test_selecting.py
# A file's tests share a broker. tests/conftest.py says which files come first; xdist would begin with those that have
# the most tests, and these are the quickest.
WORK := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# uv finds versions for all systems and Pythons at once. Nothing else needs it, so it has an environment of its own.
UV := build/lock/bin/uv
LOCK := UV_CUSTOM_COMPILE_COMMAND='make lock' $(UV) pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --upgrade

.PHONY: help venv referees demo test test-pure coverage check lint format types bench soak generate generated dist lock clean
# Two targets at once would install into one environment at once.
.NOTPARALLEL:

help:
	@echo "make demo      a broker, a text file of 250,000 lines through a stream and back, compared byte for byte"
	@echo "make test      the tests, against a real RabbitMQ where one can be had (RSTREAM_REQUIRE_RABBITMQ=1: must)"
	@echo "make test-pure the tests of what the seam is part of, without its compiled twin; make test begins with them"
	@echo "make coverage  the tests, and which lines and branches they reach; fails below the limits of each package"
	@echo "make referees  installs what the codec is compared with; a C compiler is needed"
	@echo "make check     ruff, mypy and what is generated, as make lint, make types and make generated; make format formats"
	@echo "make bench     what is aimed at and whether it is reached, as ratios measured in one run"
	@echo "make soak      long runs: kills, mutations, hostile input, a ledger, a fresh machine; PARTS=\"kill fuzz\" chooses"
	@echo "make generate  writes the generated files again: completions/, docs/cli.md, a table and a diagram"
	@echo "make dist      builds sdist and wheel into dist/, and installs each of them"
	@echo "make lock      writes requirements/ again, with the newest versions"

venv: $(DEV)

define make-venv
	$(PYTHON) -c 'import sys; sys.exit("error: Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
endef

# With the newest dependencies that there are, as a user gets them.
$(PACKAGE): pyproject.toml hatch_build.py $(COMPILED)
	$(make-venv)
	$(PIP) install --editable .
	touch $@

$(DEV): pyproject.toml hatch_build.py $(COMPILED) requirements/dev.txt requirements/uamqp.txt
	$(make-venv)
	$(PIP) install $(LOCKED) requirements/dev.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	$(BIN)/python scripts/install_uamqp.py
	touch $(PACKAGE) $@

referees: $(DEV)
	$(PIP) install $(LOCKED) requirements/referees.txt

demo: $(PACKAGE)
	scripts/demo

# Where the seam is compiled, what publishes and consumes is tested in pure Python too, before all the rest.
test: $(DEV)
	$(BIN)/python -m tests.twins
	$(if $(PYTEST_ARGS),,$(MAKE) test-pure)
	$(BIN)/python -m pytest $(WORK) $(PYTEST_ARGS)

test-pure: $(DEV)
	if $(BIN)/python -m tests.twins | grep -q ': compiled$$'; then \
		RSTREAM_PURE_PYTHON=1 $(BIN)/python -m pytest $(WORK) $(PURE_TESTS); \
	fi

# The whole suite with every line and branch noted: a third slower, so `make test` does without.
coverage: $(DEV)
	rm -f .coverage .coverage.*
	status=0; $(BIN)/coverage run -m pytest $(WORK) $(PYTEST_ARGS) || status=$$?; \
	$(BIN)/coverage combine --quiet && \
	$(BIN)/coverage report --include='rstream_core/*' --fail-under=95 && \
	$(BIN)/coverage report --include='rstream_cli/*,rstream_pytest/*' --fail-under=92 && exit $$status

check: lint types generated

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(DEV)
	$(BIN)/ruff format .

types: $(DEV)
	$(BIN)/mypy

bench: $(DEV)
	$(BIN)/python -m benchmarks goals

soak: $(DEV)
	scripts/soak $(PARTS)

generate: $(DEV)
	$(BIN)/python scripts/generate.py

generated: $(DEV)
	$(BIN)/python scripts/generate.py --check

# Each is installed where there is nothing else.
dist:
	rm -rf dist
	$(PYTHON) -m venv --clear build/dist
	build/dist/bin/python -m pip --disable-pip-version-check --quiet install $(LOCKED) requirements/build.txt
	build/dist/bin/python -m hatchling build
	for built in dist/*; do \
		$(PYTHON) -m venv --clear build/user \
		&& build/user/bin/python -m pip --disable-pip-version-check --quiet install "$$built" \
		&& build/user/bin/rstream version \
		&& build/user/bin/python -c 'import rstream_core.broker' || exit; \
	done

lock:
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip --disable-pip-version-check --quiet install 'uv>=0.9'
	$(LOCK) --group dev --output-file requirements/dev.txt pyproject.toml
	$(LOCK) --constraint requirements/dev.txt --output-file requirements/package.txt pyproject.toml
	for group in build wheels uamqp referees; do \
		$(LOCK) --constraint requirements/dev.txt --group $$group --output-file requirements/$$group.txt || exit; \
	done

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
