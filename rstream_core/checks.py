"""Checks arguments before the broker is asked: a wrong argument raises at once, and the error names it.

A wrong type raises ``TypeError``. A value that the protocol cannot carry raises ``ConfigurationError``, which is a
``ValueError``. The argument ``what`` of each function is the name of the argument, for the message.
"""

from __future__ import annotations

import inspect
import operator
import sys
from collections.abc import Collection, Mapping
from typing import SupportsIndex

from rstream_core.errors import ConfigurationError

MAX_STRING = 0x7FFF
"""Bytes of a string in the protocol: its length is a signed 16-bit number."""
MAX_OFFSET = 2**64 - 1
"""The largest offset, and also the largest publishing id."""
MAX_NAME = 255
"""Bytes of the name of a stream or super stream, and of a reference."""


def check_text(what: str, text: str, *, most: int = MAX_STRING) -> None:
    """Raises unless ``text`` is a string of at most ``most`` bytes of UTF-8."""
    if not isinstance(text, str):
        raise TypeError(f"{what} is a str, not {text!r:.80}")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:  # lone surrogates, such as from command line arguments that are not UTF-8
        raise ConfigurationError(f"{what} cannot be written as UTF-8: {text!r:.80}") from None
    if size > most:
        raise ConfigurationError(f"{what} takes at most {most} bytes, not {size}")


def check_name(what: str, name: str) -> None:
    """Raises unless ``name`` is a string of 1 to 255 bytes of UTF-8."""
    check_text(what, name, most=MAX_NAME)
    if not name:
        raise ConfigurationError(f"{what} is empty; it takes 1 to {MAX_NAME} bytes")


def check_texts(what: str, texts: Collection[str]) -> None:
    """Calls ``check_text`` for each text of a collection."""
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Collection):  # this would exhaust an iterator
        raise TypeError(f"{what} is a list of str, not a {type(texts).__name__}")
    for text in texts:
        check_text(f"one of {what}", text)


def check_properties(what: str, properties: Mapping[str, str]) -> None:
    """Calls ``check_text`` for every key and every value."""
    for key, value in properties.items():
        check_text(f"a key of {what}", key)
        check_text(f"{what}[{key!r:.80}]", value)


def check_seconds(what: str, seconds: float) -> float:
    """The seconds. Raises for what is no number, and for one that is negative or no time at all."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{what} is a number of seconds, not {seconds!r:.80}")
    if not 0 <= seconds <= sys.float_info.max:
        raise ConfigurationError(f"{what} is a number of seconds, 0 or more, not {seconds}")
    return seconds


def check_callable(what: str, function: object) -> None:
    """Raises for what cannot be called."""
    if callable(function):
        return
    meant = ""
    if inspect.iscoroutine(function):
        function.close()  # it would be warned of, as never awaited
        meant = ": pass the function itself, without calling it"
    raise TypeError(f"{what} is a function, not {function!r:.80}{meant}")


_YES_OR_NO = ("single-active-consumer", "match-unfiltered")
_SUBSCRIPTION_PROPERTIES = (*_YES_OR_NO, "super-stream", "name")
"""Those that brokers know, beside ``filter.0`` and so on."""


def check_subscription_properties(properties: Mapping[str, str]) -> dict[str, str]:
    """As ``check_properties``; the properties as brokers take them.

    Brokers ignore what they do not know, be it a key or a value: a consumer that is to be a single active one would be
    one of several in silence. So what looks like a property that they know must be that, and say "true" or "false".
    """
    if not isinstance(properties, Mapping):
        raise TypeError(f"properties is a mapping of str to str, not {properties!r:.80}")
    told: dict[str, str] = {}
    for key, value in properties.items():
        check_text("a key of properties", key)
        known = key.strip().lower().replace("_", "-").removeprefix("x-")
        if known in _SUBSCRIPTION_PROPERTIES and key != known:
            raise ConfigurationError(f"brokers ignore the property {key!r:.80}; it is called {known!r}")
        if known in _YES_OR_NO:
            if not isinstance(value, str):
                raise TypeError(f"properties[{key!r}] is the str 'true' or 'false', not {value!r:.80}")
            if value.lower() not in ("true", "false"):
                raise ConfigurationError(f"properties[{key!r}] is 'true' or 'false', not {value!r:.80}")
            value = value.lower()  # noqa: PLW2901
        told[key] = value
    check_properties("properties", told)
    return told


def check_flag(what: str, flag: object) -> None:
    """Raises for what is no ``bool``: the text "false" would count as true."""
    if not isinstance(flag, bool):
        raise TypeError(f"{what} is True or False, not {flag!r:.80}")


def check_whole(what: str, number: SupportsIndex, lowest: int, highest: int) -> int:
    """Returns ``number`` as an int. Raises unless it is a whole number from ``lowest`` to ``highest``."""
    try:
        value = operator.index(number)
    except TypeError:
        raise TypeError(f"{what} is a whole number, not {number!r:.80}") from None
    if not lowest <= value <= highest:
        raise ConfigurationError(f"{what} is between {lowest} and {highest}, not {value}")
    return value
