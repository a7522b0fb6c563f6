"""Fixtures of the tests of faults."""

from tests.clients import arguments, client, options, stream

__all__ = ["arguments", "client", "options", "stream"]
