"""Which connection settings are in force, and where each comes from, for people: no secret is shown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rstream_cli.connection_settings import (
    PASSWORDS,
    SETTINGS,
    Layer,
    in_uris,
    may_send,
    split_uris,
    username_of,
    visible_uri,
)
from rstream_core.uri import TLS_PORT

DEFAULTS: Mapping[str, str] = {
    "host": "localhost",
    "port": "5552",
    "vhost": "/",
    "username": "guest",
    "tls": "no",
    "sasl": "plain",
}
"""What is told of where nobody has said anything."""
MASK = "***"
_ASSIGNMENT = re.compile(r"""([A-Za-z_]\w*)=(?:'[^']*'|"[^"\\$`]*"|[^\s'"\\$`;&|<>()])*(?:\s+|$)""")
"""A variable of a command, with a value that no shell must work out."""
_PROGRAM = re.compile(r"[\w./~+%-]+(?=\s|$)")
_IN_EACH_URI = ("host", "port", "tls")
_OF_URI = ("vhost", "username", "password")


class Setting(NamedTuple):
    """One line."""

    name: str
    value: str
    """Without secrets."""
    place: str
    """Where it comes from."""


def shown(name: str, text: str) -> str:
    """The value of a setting without what is secret in it.

    Of a command only the program is shown: its arguments may hold a secret, and so may its variables. A file that
    was written by hand may have a URI, or a part of one, where a host belongs.
    """
    if name == "password":
        return MASK
    if name == "password_command":
        return _program_of(text.strip())
    if name in ("uri", "management_uri", "host"):
        return " ".join(map(_uri_without_password, split_uris(text)))
    return text


def _program_of(command: str) -> str:
    """The program of a command; nothing where only a shell could tell which word it is."""
    words = []
    begin = 0
    while found := _ASSIGNMENT.match(command, begin):
        words.append(f"{found[1]}={MASK}")
        begin = found.end()
    program = _PROGRAM.match(command, begin)
    if program is not None:
        words.append(program[0])
        begin = program.end()
    if begin < len(command):
        words.append(MASK)
    return " ".join(words)


def _uri_without_password(text: str) -> str:
    before, at, where = text.rpartition("@")
    scheme, mark, who = before.partition("://")
    if not mark:
        scheme, who = "", before
    user, colon, _ = who.partition(":")
    return f"{scheme}{mark}{user}{colon}{MASK if colon else ''}{at}{where}"


def effective(layers: Sequence[Layer]) -> list[Setting]:
    """Returns the settings in force: all that are given, and of the others those of ``DEFAULTS``."""
    depth = visible_uri(layers)
    user = username_of(layers)
    found: dict[str, Setting] = {}
    if depth is not None:
        layer = layers[depth]
        found["uri"] = Setting("uri", shown("uri", layer.values["uri"]), layer.label("uri"))
    for name in SETTINGS:
        if name == "uri":
            continue
        for number, layer in enumerate(layers):
            if name in layer and (name not in PASSWORDS or may_send(layers, number, user)):
                found[name] = Setting(name, shown(name, layer.values[name]), layer.label(name))
                break
            if number == depth and (name in _IN_EACH_URI or (name in _OF_URI and in_uris(layer, name))):
                break  # the line of the URI shows it
        else:
            if name in DEFAULTS and not (depth is not None and name in _IN_EACH_URI):
                found[name] = Setting(name, DEFAULTS[name], "the default")
    if "port" in found and found["port"].place == "the default" and found["tls"].value == "yes":
        found["port"] = found["port"]._replace(value=str(TLS_PORT))
    return list(found.values())


def is_secret(values: Mapping[str, str]) -> bool:
    """Returns whether settings hold a secret, or a command that may hold one."""
    if "password" in values or "password_command" in values:
        return True
    return any(MASK in shown(name, values[name]) for name in ("uri", "management_uri", "host") if name in values)
