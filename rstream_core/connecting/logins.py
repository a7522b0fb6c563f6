"""Gets the user name and the password, or token, for a connection: fixed ones, or those of a function.

Calls that come while the function is running share its result. Otherwise a client that has lost all its connections
would ask for a token once for each of them.
"""

from __future__ import annotations

import asyncio
from functools import partial

from rstream_core.callbacks import resolved
from rstream_core.checks import check_text
from rstream_core.connecting.attempts import SharedAttempt
from rstream_core.errors import CredentialsFailed
from rstream_core.types import Credentials, CredentialsFunction

CREDENTIALS_TIMEOUT = 60.0
"""Seconds that a function for credentials may take."""


class Logins:
    """The logins of one client. For one event loop."""

    def __init__(self) -> None:
        self._asking: SharedAttempt[Credentials] = SharedAttempt()

    async def credentials(self, given: Credentials | CredentialsFunction) -> Credentials:
        """Returns the credentials for a new connection. Raises ``CredentialsFailed``.

        When the last caller is cancelled, so is the function, if it is a coroutine function.
        """
        if isinstance(given, Credentials):
            return given
        async with self._asking:
            return await self._asking.result(partial(ask, given))


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
