"""Finds the names of streams for completion by TAB: by the management API, with the standard library alone.

A TAB must be quick, quiet and harmless. So the API has 300 ms, in a thread that nobody waits for longer; an address is
only asked that the user has given, or that is this machine's; no command for a password is run, and nobody
is asked for one. Whatever is wrong, there are no names.

Names are kept for a moment in a file that only the user can read, by endpoint, virtual host and user. Where the API
does not answer in time, older ones are better than none.
"""

from __future__ import annotations

import enum
import hashlib
import json
import os
import socket
import stat
import sys
import tempfile
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from http.client import HTTPConnection
from io import StringIO
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple
from urllib.parse import quote

from rstream_cli.environment import Environment

ASK_TIMEOUT = 0.3
"""Seconds for all that is asked of the API."""
SETTINGS_TIMEOUT = 2.0
"""Seconds for what comes before: files are read, which may be far away."""
FRESH = 10.0
"""Seconds in which kept names are not asked for again."""
STALE = 86_400.0
"""Seconds after which kept names are not used."""
MAX_ANSWER = 4 * 1024 * 1024
"""Bytes of an answer, and of kept names."""
MOST_VALUES = 1 << 16
"""Values of an answer, and of kept names: empty lists take thirty times their bytes."""
MOST_NAMES = 20_000
_PAGE = 500
_FILES = ("password_file", "ca_file", "cert", "cert_key")
"""Settings that are the paths of files."""


class Wanted(enum.Enum):
    """Which names are wanted."""

    STREAMS = "streams"
    SUPER_STREAMS = "super streams"
    BOTH = "both"


class Place(NamedTuple):
    """Whom to ask, and as whom."""

    host: str
    port: int
    path: str
    tls: Any
    server_name: str
    vhost: str
    username: str
    password: str

    @property
    def key(self) -> str:
        """A name for a file: of the endpoint, the virtual host and the user."""
        text = json.dumps([self.host, self.port, self.path, self.tls is not None, self.vhost, self.username])
        return hashlib.sha256(text.encode()).hexdigest()


def find_names(env: Environment, values: Mapping[str, str], wanted: Wanted) -> list[str]:
    """Returns the names that there are, sorted. ``values`` are the connection settings of the command line."""
    # What takes the processor is not what the limits are for.
    from rstream_cli import connection_settings, project  # noqa: F401
    from rstream_cli.management import address  # noqa: F401
    from rstream_cli.options import connecting  # noqa: F401

    found: SimpleQueue[_Found | None] = SimpleQueue()

    def work() -> None:
        try:
            for names in _look(env, values, wanted):
                found.put(names)
        except Exception:  # noqa: BLE001, S110 - a shell completes: there is nobody to tell
            pass
        finally:
            found.put(None)

    threading.Thread(target=work, name="rstream-lookup", daemon=True).start()
    names: list[str] = []
    with suppress(Empty):
        limit = SETTINGS_TIMEOUT
        while (more := found.get(timeout=limit)) is not None:
            names, limit = more.names, ASK_TIMEOUT
            if more.path is not None:  # here, as nobody waits for the thread
                _write(more.path, names, env.now())
    return names


class _Found(NamedTuple):
    names: list[str]
    path: str | None = None
    """Where they are to be kept."""


def _look(env: Environment, values: Mapping[str, str], wanted: Wanted) -> Iterator[_Found]:
    """First the names that are kept, then those that the API tells, where the kept ones are not fresh."""
    place = _place(env, values)
    if place is None:
        return
    folder = _folder(env.variables)
    path = None if folder is None else os.path.join(folder, f"{place.key}-{wanted.name.lower()}.json")
    now = env.now()
    kept = None if path is None else _read(path, now)
    yield _Found([] if kept is None else kept.names)
    if kept is not None and kept.age < FRESH:
        return
    yield _Found(sorted(_ask(place, wanted, time.monotonic() + ASK_TIMEOUT)), path)


def _place(env: Environment, values: Mapping[str, str]) -> Place | None:
    """Whom to ask; None where there is nobody that may be asked, or a password that is not at hand."""
    from rstream_cli.connection_settings import SETTINGS, build_tls
    from rstream_cli.management.address import default_addresses, is_loopback
    from rstream_cli.options.connecting import ConnectionSettings
    from rstream_cli.project import read_project
    from rstream_core.types import Credentials

    # Nothing is written, and there is no terminal to ask on.
    known = {name: values[name] for name in (*SETTINGS, "context") if name in values}
    quiet = env.replaced(stderr=StringIO(), terminal=None)
    settings = ConnectionSettings(quiet, known, uses_contexts=True, project=read_project())
    if any(_may_wait(layer.values[name]) for layer in settings.layers for name in _FILES if name in layer):
        return None
    address = settings.management_address()
    options = settings.options
    if address is None:
        found = default_addresses(options.endpoints, tls=options.tls is not None)
        address = next(each for each in found if is_loopback(each.host))
    login = address.credentials or options.credentials
    if not isinstance(login, Credentials) or (address.credentials is None and options.mechanism != "PLAIN"):
        return None
    is_same_host = address.host in {endpoint.host for endpoint in options.endpoints}
    return Place(
        address.host,
        address.port,
        address.path,
        build_tls(settings.layers) if address.tls else None,
        (is_same_host and options.server_name) or address.host,
        options.vhost,
        login.username,
        login.password,
    )


def _may_wait(path: str) -> bool:
    """Whether a file is something else than a regular one: a pipe waits for who writes it, and is read only once."""
    return os.path.exists(path) and not os.path.isfile(path)


def _ask(place: Place, wanted: Wanted, deadline: float) -> set[str]:
    names: set[str] = set()
    vhost = quote(place.vhost, safe="")
    with closing(_connect(place, deadline)) as connection:
        if wanted is not Wanted.SUPER_STREAMS:
            for item in _pages(connection, place, f"/api/queues/{vhost}?columns=name,type", deadline):
                if item["type"] == "stream":
                    names.add(item["name"])
        if wanted is not Wanted.STREAMS:
            for item in _pages(connection, place, f"/api/exchanges/{vhost}?columns=name,arguments", deadline):
                if isinstance(item["arguments"], dict) and item["arguments"].get("x-super-stream") is True:
                    names.add(item["name"])
    return {name for name in names if _is_plain(name)}


def _connect(place: Place, deadline: float) -> HTTPConnection:
    connection = HTTPConnection(place.host, place.port)
    sock = socket.create_connection((place.host, place.port), timeout=_left(deadline))
    try:
        if place.tls is not None:
            sock = place.tls.wrap_socket(sock, server_hostname=place.server_name)
        else:
            from ipaddress import ip_address

            if not ip_address(sock.getpeername()[0].partition("%")[0]).is_loopback:
                raise ConnectionError("the password is not sent to another machine without TLS")
    except BaseException:
        sock.close()
        raise
    connection.sock = sock
    return connection


def _pages(connection: HTTPConnection, place: Place, target: str, deadline: float) -> Iterator[dict[str, Any]]:
    """The entries of a list. Raises whatever is wrong, also for what is not as RabbitMQ has it."""
    login = b64encode(f"{place.username}:{place.password}".encode()).decode()
    seen = 0
    number, last = 1, 1
    while number <= last:
        connection.sock.settimeout(_left(deadline))
        connection.request(
            "GET",
            f"{place.path}{target}&page={number}&page_size={_PAGE}",
            headers={"Authorization": f"Basic {login}", "Accept": "application/json"},
        )
        with connection.getresponse() as answer:
            data = answer.read(MAX_ANSWER + 1)
            if answer.status != 200 or len(data) > MAX_ANSWER:
                raise ValueError("no answer of this API")
        page = _parse(data)
        last = int(page["page_count"])
        for item in page["items"]:
            seen += 1
            if seen > MOST_NAMES:
                raise ValueError("too many names")
            yield item
        number += 1


def _parse(data: bytes) -> Any:
    """What JSON holds. Raises ``ValueError``, also where that is too much."""
    from rstream_cli.management.answers import count_values

    if count_values(data) > MOST_VALUES:
        raise ValueError("too many values")
    return json.loads(data)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _is_plain(name: object) -> bool:
    """Whether a name can stand in a line for a shell: it has no control characters, and is none that hides."""
    from rstream_core.text import is_harmless

    return isinstance(name, str) and 0 < len(name) <= 255 and is_harmless(name)


# --- what is kept --------------------------------------------------------------------------------------------


class _Kept(NamedTuple):
    names: list[str]
    age: float


def _folder(variables: Mapping[str, str]) -> str | None:
    """The folder for kept names; None for a user without a home."""
    folder = variables.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(folder):
        home = variables.get("HOME", "")
        if not os.path.isabs(home):
            return None
        folder = os.path.join(home, "Library/Caches" if sys.platform == "darwin" else ".cache")
    return os.path.join(folder, "rstream", "names")


def _read(path: str, now: float) -> _Kept | None:
    """The names in a file of the user's own that nobody else may read; None where there are none to use."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = os.fstat(descriptor)
        age = now - found.st_mtime
        is_own = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
        if not is_own or not 0 <= age < STALE:
            return None
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_ANSWER + 1)
    finally:
        os.close(descriptor)
    try:
        names = _parse(data)
    except ValueError:
        return None
    if not isinstance(names, list) or not all(map(_is_plain, names)):
        return None
    return _Kept(names, age)


def _write(path: str, names: list[str], now: float) -> None:
    """Keeps names. A disk that cannot be written keeps none."""
    folder = os.path.dirname(path)
    with suppress(OSError):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        descriptor, scratch = tempfile.mkstemp(dir=folder)  # of mode 600
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(names, file)
            os.utime(scratch, (now, now))
            os.replace(scratch, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(scratch)
            raise
