"""The checks of ``doctor``: the steps of connecting, one after the other, each with its finding.

After a step that failed, the steps that need it are ``skipped``, so the first FAIL is the place to look. ``doctor``
writes nothing to a broker: the round trip is that of a question, not of a message.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import statistics
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from rstream_cli.hints import hint_of, in_options
from rstream_cli.runner import describe
from rstream_cli.setting_values import EXTERNAL, OAUTHBEARER
from rstream_core import (
    ConnectionFailed,
    ConnectionOptions,
    Credentials,
    CredentialsFailed,
    Endpoint,
    HostNotFound,
    LeaderNotAvailable,
    RstreamError,
    VirtualHostAccessFailure,
)
from rstream_core.connecting.connection import Connection
from rstream_core.connecting.locator import Locator
from rstream_core.connecting.logins import Logins
from rstream_core.connecting.transport import connection_error, open_transport
from rstream_core.hints import Hint
from rstream_core.protocol import commands as c
from rstream_core.protocol.session import frame_size, sasl_authenticate
from rstream_core.types import MAX_FRAME_BEFORE_OPEN

OK, FAIL, SKIPPED = "ok", "FAIL", "skipped"

_STEPS = (
    "name",
    "connection",
    "TLS",
    "login",
    "virtual host",
    "broker",
    "features",
    "round trip",
    "advertised",
)
"""The checks of a seed node."""
_ROUND_TRIPS = 5
_GOODBYE = 2.0
"""Seconds for a broker to answer a Close."""
_EXPIRES_SOON = 14 * 86400
"""Seconds before a certificate expires in which that is reported."""

FEATURES: tuple[tuple[str, c.Key, int, str], ...] = (
    ("super streams and single active consumers", c.Key.PARTITIONS, 1, "3.11"),
    ("stream statistics", c.Key.STREAM_STATS, 1, "3.11"),
    ("filters", c.Key.PUBLISH, 2, "3.13"),
    ("creating super streams", c.Key.CREATE_SUPER_STREAM, 1, "3.13"),
    ("resolving offsets", c.Key.RESOLVE_OFFSET_SPEC, 1, "4.3"),
)
"""Features that a broker may lack: the name, the command and version that show it, and the first RabbitMQ with it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    check: str
    status: str
    detail: str
    hint: str | None = None
    error: BaseException | None = None
    """The error behind a FAIL, which determines the exit code."""
    node: str | None = None
    """The seed node that was examined; None for a finding about the stream."""


class Diagnosis:
    """One examination. ``findings`` may be iterated once."""

    def __init__(self, options: ConnectionOptions, stream: str | None, now: float) -> None:
        """``now``: seconds since 1970, for the end of certificates."""
        self._options = options
        self._stream = stream
        self._now = now
        self._logins = Logins()
        self._works = False
        """Whether the login succeeded on any seed node."""

    async def findings(self) -> AsyncGenerator[Finding, None]:
        """Yields all findings, in the order of the steps. Does not raise errors of the broker: they are findings.

        A caller that stops early must close the generator.
        """
        for endpoint in self._options.endpoints:
            async with aclosing(self._seed(endpoint)) as of_seed:
                async for finding in of_seed:
                    yield replace(finding, node=str(endpoint))
        if self._stream is not None:
            async with aclosing(self._stream_findings(self._stream)) as of_stream:
                async for finding in of_stream:
                    yield finding

    # One seed node.

    async def _seed(self, endpoint: Endpoint) -> AsyncGenerator[Finding, None]:
        made: set[str] = set()
        async with aclosing(self._steps(endpoint)) as steps:
            async for finding in steps:
                made.add(finding.check)
                yield finding
        for step in _STEPS:
            if step not in made:
                yield Finding(step, SKIPPED, "not checked, as an earlier step failed")

    async def _steps(self, endpoint: Endpoint) -> AsyncGenerator[Finding, None]:
        """Yields the findings of a seed node, up to the first failure."""
        for step in (self._resolve, self._reach, self._tls):
            finding = await step(endpoint)
            yield finding
            if finding.status == FAIL:
                return
        options = self._options
        try:
            credentials = await self._logins.credentials(options.credentials)
        except CredentialsFailed as error:
            yield _failure("login", error)
            return
        owners = {EXTERNAL: "the certificate's user", OAUTHBEARER: "the token's user"}
        who = owners.get(options.mechanism, f"user {credentials.username!r}")
        user = f"{who}, {options.mechanism}"
        size = _login_size(options.mechanism, credentials)
        hint = None
        if size > MAX_FRAME_BEFORE_OPEN:  # an older broker takes it, until it is upgraded
            user += f"; a login of {size:,} bytes"
            hint = in_options(Hint.LOGIN_TOO_LARGE)
        try:
            connection = await Connection.open(endpoint, options, credentials)
        except RstreamError as error:
            if isinstance(error, VirtualHostAccessFailure):
                yield Finding("login", OK, user, hint)
                yield _failure("virtual host", error)
            else:
                if error.hint is Hint.LOGIN_TOO_LARGE:
                    error.add_note(f"the login takes {size:,} bytes")
                yield _failure("login", error)
            return
        self._works = True
        try:
            yield Finding("login", OK, user, hint)
            yield Finding("virtual host", OK, self._options.vhost)
            yield _broker(connection)
            yield _features(connection)
            yield await _round_trip(connection)
            yield await self._advertised(endpoint, connection.session.advertised)
        finally:
            await connection.close(timeout=_GOODBYE)

    async def _resolve(self, endpoint: Endpoint) -> Finding:
        loop = asyncio.get_running_loop()
        limit = self._options.connect_timeout
        try:
            async with asyncio.timeout(limit):
                found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
        except TimeoutError:
            late = HostNotFound(
                f"{endpoint.host!r} did not resolve within {limit:g} s", hint="is a name server reachable?"
            )
            return _failure("name", late)
        except OSError as error:
            return _failure("name", connection_error(endpoint, error))
        except UnicodeError:
            return _failure("name", HostNotFound(f"{endpoint.host!r} is not a host name"))
        addresses = dict.fromkeys(str(entry[4][0]) for entry in found)
        return Finding("name", OK, f"{endpoint.host} is {', '.join(addresses)}")

    async def _reach(self, endpoint: Endpoint) -> Finding:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        try:
            transport = await self._open(endpoint, None)
        except ConnectionFailed as error:
            if self._options.tls is not None and error.hint is Hint.IS_IT_RUNNING:
                error.hint = Hint.IS_IT_RUNNING_WITH_TLS
            return _failure("connection", error)
        took = loop.time() - begin
        peer = transport.get_extra_info("peername")
        transport.abort()
        return Finding("connection", OK, f"{endpoint} answers at {peer[0]} in {took * 1000:.1f} ms")

    async def _tls(self, endpoint: Endpoint) -> Finding:
        context = self._options.tls
        if context is None:
            return Finding("TLS", SKIPPED, "off: others on the network can read what is sent")
        try:
            transport = await self._open(endpoint, context)
        except ConnectionFailed as error:
            return _failure("TLS", error)
        certificate: dict[str, Any] = transport.get_extra_info("peercert") or {}
        version = transport.get_extra_info("ssl_object").version()
        transport.abort()
        if not certificate:
            return Finding("TLS", OK, f"{version}; the certificate is NOT verified", "leave out --insecure")
        until: str = certificate["notAfter"]
        left = ssl.cert_time_to_seconds(until) - self._now
        hint = f"the certificate expires in {left / 86400:.0f} days: renew it" if left < _EXPIRES_SOON else None
        return Finding("TLS", OK, f"{version}, issued by {_issuer(certificate)}, valid until {until}", hint)

    async def _open(self, endpoint: Endpoint, tls: ssl.SSLContext | None) -> asyncio.Transport:
        options = self._options
        transport, _ = await open_transport(
            endpoint, asyncio.Protocol, tls=tls, server_name=options.server_name, timeout=options.connect_timeout
        )
        return transport

    async def _advertised(self, seed: Endpoint, advertised: Endpoint | None) -> Finding:
        if advertised is None:
            return Finding("advertised", SKIPPED, "the broker does not advertise an address")
        if self._options.load_balancer_mode:
            return Finding("advertised", SKIPPED, f"{advertised}, which --load-balancer does not connect to")
        if advertised == seed:
            return Finding("advertised", OK, f"{advertised}, the address that was used")
        return await self._node("advertised", advertised, Locator(replace(self._options, endpoints=(seed,))))

    # A stream.

    async def _stream_findings(self, stream: str) -> AsyncGenerator[Finding, None]:
        if not self._works:
            yield Finding("stream", SKIPPED, f"{stream}: no login succeeded")
            return
        locator = Locator(self._options)
        try:
            found = await locator.metadata(stream)
            yield Finding("stream", OK, stream)
            if found.leader is None:
                leaderless = LeaderNotAvailable(
                    f"stream {stream!r} has no leader now", hint="a majority of its nodes must be up"
                )
                yield _failure("leader", leaderless)
            else:
                yield await self._node("leader", found.leader, locator)
            for replica in found.replicas:
                yield await self._node("replica", replica, locator)
        except RstreamError as error:
            yield _failure("stream", error)
        finally:
            await locator.close()

    async def _node(self, check: str, endpoint: Endpoint, locator: Locator) -> Finding:
        """Connects to a node that the broker names, as an application would, also through a load balancer."""
        try:
            connection = await locator.connect(endpoint)
        except RstreamError as error:
            return _failure(check, error)
        await connection.close(timeout=_GOODBYE)
        through = " through the load balancer" if self._options.load_balancer_mode else ""
        return Finding(check, OK, f"{endpoint}{through}")


async def _round_trip(connection: Connection) -> Finding:
    loop = asyncio.get_running_loop()
    times: list[float] = []
    try:
        for _ in range(_ROUND_TRIPS):
            begin = loop.time()
            await connection.request(c.Metadata(()), "a round trip")
            times.append(loop.time() - begin)
    except RstreamError as error:
        return _failure("round trip", error)
    return Finding("round trip", OK, f"{statistics.median(times) * 1000:.1f} ms, the median of {_ROUND_TRIPS}")


def _broker(connection: Connection) -> Finding:
    session = connection.session
    product = session.server_properties.get("product", "a broker")
    frame = f"{session.frame_max} bytes" if session.frame_max else "any size"
    beat = f"every {session.heartbeat} s" if session.heartbeat else "off"
    return Finding("broker", OK, f"{product} {session.server_version}; frames of {frame}, heartbeats {beat}")


def _features(connection: Connection) -> Finding:
    supports = connection.session.supports
    lacking = [f"{name} ({since})" for name, key, version, since in FEATURES if not supports(key, version)]
    if not lacking:
        return Finding("features", OK, "all")
    return Finding(
        "features", OK, f"without {', '.join(lacking)}", "in brackets: the first RabbitMQ version with the feature"
    )


def _failure(check: str, error: RstreamError) -> Finding:
    return Finding(check, FAIL, describe(error), hint_of(error), error)


def _login_size(mechanism: str, credentials: Credentials) -> int:
    """Bytes of the frame that logs in; 0 where there can be none, which logging in tells of."""
    try:
        return frame_size(sasl_authenticate(mechanism, credentials))
    except RstreamError:
        return 0


def _issuer(certificate: dict[str, Any]) -> str:
    """Returns the issuer's common name, or else its organization."""
    found = {key: value for part in certificate.get("issuer", ()) for key, value in part}
    return next((found[key] for key in ("commonName", "organizationName") if key in found), "an issuer without a name")
