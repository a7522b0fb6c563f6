"""Gets the user name and the password, or token, for a connection: fixed ones, or those of a function.

Calls that come while the function is running share its result. Otherwise a client that has lost all its connections
would ask for a token once for each of them. And what no node could be reached with is tried again for a moment:
otherwise a client that waits for a broker would ask once for each attempt, perhaps a person each time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from rstream_core.callbacks import resolved
from rstream_core.checks import check_text
from rstream_core.connecting.attempts import SharedAttempt
from rstream_core.errors import ConnectionFailed, CredentialsFailed
from rstream_core.tokens import expiry_of
from rstream_core.types import Credentials, CredentialsFunction

CREDENTIALS_TIMEOUT = 60.0
"""Seconds that a function for credentials may take."""
UNUSED_SECONDS = 30.0
"""Seconds for which credentials are kept that no node was reached with."""
_TOKEN_LEFT = 2.0
"""Seconds that a token must have left, to be tried again."""


class Logins:
    """The logins of one client. For one event loop."""

    def __init__(self) -> None:
        self._asking: SharedAttempt[Credentials] = SharedAttempt()
        self._unused: tuple[Credentials, float] | None = None
        """Credentials that no node was reached with, and until when they may be tried again."""

    async def credentials(self, given: Credentials | CredentialsFunction) -> Credentials:
        """Returns the credentials for a new connection. Raises ``CredentialsFailed``.

        When the last caller is cancelled, so is the function, if it is a coroutine function.
        """
        if isinstance(given, Credentials):
            return given
        if self._unused is not None and asyncio.get_running_loop().time() < self._unused[1]:
            return self._unused[0]
        return await self.others(given)

    async def others(self, given: Credentials | CredentialsFunction) -> Credentials:
        """As ``credentials``, but a function is asked in any case: for an open connection, before its token expires."""
        if isinstance(given, Credentials):
            return given
        async with self._asking:
            return await self._asking.result(partial(ask, given))

    @contextmanager
    def trial(self, credentials: Credentials) -> Iterator[None]:
        """For the block that connects with them: keeps them for the next one where it raises ``ConnectionFailed``.

        What a node has taken, or refused, is not used for another connection.
        """
        self._unused = None
        try:
            yield
        except ConnectionFailed:
            expires = expiry_of(credentials.password)
            left = UNUSED_SECONDS if expires is None else min(UNUSED_SECONDS, expires - time.time() - _TOKEN_LEFT)
            self._unused = credentials, asyncio.get_running_loop().time() + left
            raise


async def ask(function: CredentialsFunction) -> Credentials:
    """Calls a function for credentials, and checks what it gives. Raises ``CredentialsFailed``."""
    limit = asyncio.timeout(CREDENTIALS_TIMEOUT)
    try:
        async with limit:
            found = await resolved(function())
    except CredentialsFailed:
        raise
    except Exception as error:
        if limit.expired():
            raise CredentialsFailed(
                f"the function for the credentials took longer than {CREDENTIALS_TIMEOUT:g} s"
            ) from None
        raise CredentialsFailed(f"the function for the credentials failed: {error!r}") from error
    if not isinstance(found, Credentials):
        raise CredentialsFailed(f"the function for the credentials returned a {type(found).__name__}, not Credentials")
    try:
        check_text("username", found.username)
        check_text("password", found.password)
    except (TypeError, ValueError) as error:
        raise CredentialsFailed(f"the function for the credentials: {error}") from None
    return found
