"""Fixtures of the conformance tests."""

from tests.clients import arguments, client, options, stream, super_stream
from tests.wire import there, wire

__all__ = ["arguments", "client", "options", "stream", "super_stream", "there", "wire"]
