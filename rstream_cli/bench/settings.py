"""Connection settings as JSON, for the processes that make the load: they get them on stdin, never as arguments.

A password that was asked for, or came from a file that can be read once, is passed on as it was found. A command for
passwords is run again by each process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from rstream_cli.connection_settings import Layer, build_options, build_recovery, build_wait, command_line_layer
from rstream_cli.passwords import PasswordSources
from rstream_core.connecting.recovery import Recovery
from rstream_core.types import ConnectionOptions, Credentials


def to_json(layers: Sequence[Layer], options: ConnectionOptions) -> dict[str, Any]:
    """Returns settings that ``from_json`` takes. ``options``: what was built of the layers. It may hold a password."""
    credentials = options.credentials
    return {
        "layers": [
            {
                "values": dict(layer.values),
                "labels": {name: layer.label(name) for name in layer.values},
                "is_context": layer.is_context,
                "explicit": layer.explicit,
                "withheld": layer.withheld,
            }
            for layer in layers
        ],
        "login": [credentials.username, credentials.password] if isinstance(credentials, Credentials) else None,
        "name": options.connection_name,
    }


def from_json(
    settings: Mapping[str, Any], passwords: PasswordSources
) -> tuple[ConnectionOptions, Recovery | None, float]:
    """Returns the options, the recovery policy, and the seconds to wait for a broker. Raises ``ConfigurationError``."""
    layers = [
        replace(
            command_line_layer(told["values"]),
            label=partial(_label, told["labels"]),
            is_context=told["is_context"],
            explicit=told["explicit"],
            withheld=told["withheld"],
        )
        for told in settings["layers"]
    ]
    recovery, wait = build_recovery(layers), build_wait(layers)
    if settings["login"] is not None:
        username, password = settings["login"]
        layers.insert(0, Layer({"username": username, "password": password}, str))
    options = build_options(layers, connection_name=settings["name"], passwords=passwords)
    return options, recovery, wait


def _label(labels: Mapping[str, str], name: str) -> str:
    return labels.get(name, name)
