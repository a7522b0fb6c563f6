"""Fixtures of the conformance tests."""

from tests.clients import arguments, client, options, stream, super_stream

__all__ = ["arguments", "client", "options", "stream", "super_stream"]
