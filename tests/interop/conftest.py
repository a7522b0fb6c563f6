"""Fixtures: a program of another language that runs against the broker of the test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts._builds import BUILD_TIMEOUT, BuildError, NoProgramError
from tests.brokers import Broker
from tests.clients import client, options, stream
from tests.interop.languages import Language
from tests.interop.programs import Program, Programs

__all__ = ["client", "options", "stream"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test of a language builds its programs, and tests in other processes wait for that."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(BUILD_TIMEOUT + 300))


@pytest.fixture(scope="session")
def programs() -> Iterator[Programs]:
    """All that run."""
    found = Programs()
    yield found
    found.close()


@pytest.fixture
def program_of(programs: Programs, broker: Broker) -> Callable[[Language], Program]:
    """Runs a language's program, as ``running`` does."""
    return lambda language: running(programs, language, broker)


def running(programs: Programs, language: Language, broker: Broker) -> Program:
    """A language's program; skips the test where this machine cannot build it, or fails it where it must.

    A program that is wrong fails its tests on every machine.
    """
    try:
        return programs.get(language, broker)
    except NoProgramError as error:
        if os.environ.get("RSTREAM_REQUIRE_INTEROP") == "1":
            pytest.fail(f"RSTREAM_REQUIRE_INTEROP=1, but {error}", pytrace=False)
        pytest.skip(str(error))
    except BuildError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def them(language: Language, program_of: Callable[[Language], Program]) -> Program:
    """The program of the test's language."""
    return program_of(language)
