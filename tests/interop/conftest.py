"""Fixtures: a program of another language that runs against the broker of the test."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.brokers import Broker
from tests.clients import client, options, stream
from tests.interop.languages import Language
from tests.interop.programs import NoProgramError, Program, built, running

__all__ = ["client", "options", "stream"]


@pytest.fixture(scope="session")
def product_of() -> Callable[[Language], Path]:
    """Builds a language's program, or says once for all of the session that it cannot be built."""
    found: dict[str, Path | NoProgramError] = {}

    def product(language: Language) -> Path:
        if language.name not in found:
            try:
                found[language.name] = built(language)
            except NoProgramError as error:
                found[language.name] = error
        result = found[language.name]
        if isinstance(result, Path):
            return result
        if os.environ.get("RSTREAM_REQUIRE_INTEROP") == "1":
            pytest.fail(f"RSTREAM_REQUIRE_INTEROP=1, but {result}", pytrace=False)
        pytest.skip(str(result))

    return product


@pytest.fixture
async def them(language: Language, product_of: Callable[[Language], Path], broker: Broker) -> AsyncIterator[Program]:
    """The program of the test's language."""
    async with running(language, product_of(language), broker) as program:
        yield program
