"""Brokers that take tokens, and what makes some for them."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from rstream_core import EmbeddedBroker, Endpoint, parse_uri
from tests import token_program
from tests.brokers import own_broker
from tests.token_program import KEY, claims_for, openssl, signed, signed_by_rsa


@dataclass(frozen=True)
class TokenBroker:
    """A broker that takes tokens, and what makes some for it."""

    endpoint: Endpoint
    make: Callable[[float], str]
    """Makes a token that expires after so many seconds. Its user is alice."""
    offers_bearer: bool
    key: Path | None = None

    def program(self, seconds: float) -> str:
        """A shell's words that print such a token."""
        keys = [] if self.key is None else [str(self.key)]
        return shlex.join([sys.executable, "-S", str(token_program.__file__), *keys, f"{seconds:g}"])


@contextmanager
def embedded_with_tokens() -> Iterator[TokenBroker]:
    with EmbeddedBroker(token_key=KEY) as broker:
        yield TokenBroker(parse_uri(broker.uri).endpoint, lambda seconds: signed(claims_for(seconds)), True)


@contextmanager
def rabbitmq_with_tokens(folder: Path, name: str) -> Iterator[TokenBroker]:
    """RabbitMQ with its OAuth plugin, and a key in its configuration. Skips the test where there is no openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("makes keys with the openssl command, which is not here")
    folder.chmod(0o755)
    key, public = folder / "key.pem", folder / "public.pem"
    openssl("genrsa", "-out", str(key), "2048")
    openssl("rsa", "-in", str(key), "-pubout", "-out", str(public))
    with own_broker(name, "--token-key", str(public)) as broker:
        endpoint = Endpoint(broker.host, broker.port)
        yield TokenBroker(endpoint, lambda seconds: signed_by_rsa(str(key), seconds), False, key)
