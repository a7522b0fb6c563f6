"""Combines the settings from command line, environment and context into one ``ConnectionOptions``.

Settings come in layers, the strongest first: the command line, the environment, the user's context (which stands
before the environment where the command line names it). A layer maps a setting's name to a text. The rules are the
same for all layers.

- Each setting comes from the strongest layer that has it, with exceptions, all for safety: a host hides a weaker
  layer's whole URI, a URI's password applies only to that URI's user name, and a password of a context only to the
  context's user at the context's address. ``may_send`` and ``foreign_management`` say where a password may go.
- Within one layer no setting may be given twice: a URI and a host contradict each other even where they agree.
- These functions do not connect, and no message contains a password.

The module is longer than others, so that all rules of where a password may go stand beside those of the layers.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from rstream_cli import setting_values as read
from rstream_cli.parsing import parse_duration, parse_timeout, positive_duration
from rstream_cli.passwords import PasswordSources, read_password_file
from rstream_core.connecting.recovery import RECOVER, Recovery
from rstream_core.errors import ConfigurationError
from rstream_core.types import ConnectionOptions, Credentials, CredentialsFunction, Endpoint
from rstream_core.uri import PLAIN_PORT, TLS_PORT, StreamUri

T = TypeVar("T")

SETTINGS = (
    "uri",
    "host",
    "port",
    "vhost",
    "username",
    "password",
    "password_file",
    "password_command",
    "tls",
    "ca_file",
    "cert",
    "cert_key",
    "server_name",
    "insecure",
    "sasl",
    "load_balancer",
    "connect_timeout",
    "heartbeat",
    "frame_max",
    "wait_for_broker",
    "recover_for",
    "management_uri",
)
"""The names of all settings. The environment variable of each is ``RSTREAM_`` and the name in capitals."""

CONTEXT_SETTINGS = frozenset((*SETTINGS, "stream"))
"""The names of what a context may hold."""

DEFAULT_USER = "guest"
INSECURE_WARNING = (
    "--insecure: the broker's certificate is NOT verified; an attacker on the network can read the password"
)

_OLD_NAMES = {"key": "cert_key"}
"""Settings that had another name."""
PASSWORDS = ("password", "password_file", "password_command")
"""Of these, each layer may have one."""
_TLS_ONLY = ("ca_file", "cert", "cert_key", "server_name", "insecure")


@dataclass(frozen=True)
class Layer:
    """The settings from one place: name -> text. ``label`` returns the name of a setting in that place."""

    values: Mapping[str, str] = field(repr=False)  # may contain a password
    label: Callable[[str], str]
    is_context: bool = False
    explicit: bool = False
    """Said for this one run: what cannot take effect is then an error, not ignored."""
    withheld: str | None = None
    """Why no password of this layer is used; None where passwords are."""
    old_names: tuple[str, ...] = ()
    """Those among ``values`` that were said under their old names."""
    uris: tuple[StreamUri, ...] = ()
    ports_given: tuple[bool, ...] = ()

    def __contains__(self, name: str) -> bool:
        return name in self.values


def flag_of(name: str) -> str:
    """Returns the option of a setting."""
    return "--" + name.replace("_", "-")


def command_line_layer(values: Mapping[str, str], label: Callable[[str], str] = flag_of) -> Layer:
    """Returns the layer of the options. Several URIs are one text, separated by newlines."""
    layer = Layer(values, label, explicit=True)
    for name, text in values.items():
        if not text.strip():  # usually an unset variable of a script, which a default would hide
            raise ConfigurationError(f"{layer.label(name)} is empty")
    return _read_uris(_renamed(layer))


def environment_layer(variables: Mapping[str, str]) -> Layer:
    """The layer of RSTREAM_HOST and so on; an empty variable counts as not set."""
    names = (*SETTINGS, *_OLD_NAMES)
    values = {name: text for name in names if (text := variables.get(f"RSTREAM_{name.upper()}"))}
    return _read_uris(_renamed(Layer(values, lambda name: f"RSTREAM_{name.upper()}")))


def context_layer(name: str, values: Mapping[str, str]) -> Layer:
    """The layer of a context. Values that are no connection settings are left out."""
    values = {key: text for key, text in values.items() if key in SETTINGS}
    return _read_uris(Layer(values, lambda key: f"{key} of the context {name!r}", is_context=True))


def check_layer(layer: Layer) -> None:
    """Raises ``ConfigurationError`` for a layer that could not be used alone, but for files that are missing."""
    _check_contradictions(layer)
    has_tls = layer.uris[0].tls if layer.uris else _first([layer], "tls", read.boolean)
    if not has_tls and not _asks_with_tls([layer]):
        _check_tls_only([replace(layer, explicit=True)])
    for name, parse in read.PARSERS.items():
        _first([layer], name, parse)


def _renamed(layer: Layer) -> Layer:
    """The same under the names of today."""
    values = dict(layer.values)
    old_names = [old for old in _OLD_NAMES if old in values]
    for old in old_names:
        new = _OLD_NAMES[old]
        if new in values:
            raise ConfigurationError(f"{layer.label(old)} is the old name of {layer.label(new)}: give only one of them")
        values[new] = values.pop(old)
    return replace(layer, values=values, old_names=tuple(old_names))


def management_uri(layers: Sequence[Layer]) -> str | None:
    """The address of the management API; None where it is the default one. It may contain a password.

    That of a context is for the context's own address: a password for another one must not go there.
    """
    return _first(
        [layer for number, layer in enumerate(layers) if not _is_hidden(layers, number)], "management_uri", str
    )


def foreign_management(layers: Sequence[Layer]) -> str | None:
    """Returns the label of the management address if the password of the stream connection must not go there.

    It may go where an option says, and else where the address stands in the same place as the password, or as the
    broker's address that the password is for. The broker's own default password is no secret.
    """
    number = next(
        (number for number, layer in enumerate(layers) if "management_uri" in layer and not _is_hidden(layers, number)),
        None,
    )
    if number is None or layers[number].explicit:
        return None
    user = username_of(layers)
    source = _password_source(layers, user)
    if source is None and user == DEFAULT_USER:
        return None
    own = {_address_depth(layers), None if source is None else source[0]}
    return None if number in own else layers[number].label("management_uri")


def _asks_with_tls(layers: Sequence[Layer]) -> bool:
    return (management_uri(layers) or "").lower().startswith("https://")


def build_tls(layers: Sequence[Layer], warn: Callable[[str], None] | None = None) -> ssl.SSLContext:
    """Returns a new context with the certificates that the layers name. Raises ``ConfigurationError``."""
    return _tls_context(layers, warn)


def gives_address(layers: Sequence[Layer]) -> bool:
    """Returns whether any layer has the address of a broker."""
    return any(name in layer for layer in layers for name in ("uri", "host", "port"))


def build_options(
    layers: Sequence[Layer],
    *,
    connection_name: str = "",
    warn: Callable[[str], None] | None = None,
    passwords: PasswordSources | None = None,
) -> ConnectionOptions:
    """Returns the connection options from the layers, strongest first.

    ``warn`` is told, once, of each old name that is used, and where the certificate is not verified. ``passwords`` runs
    password commands, and asks a person where a user has no password: it waits for the answer. Reads the password file
    and the certificates. Raises ``ConfigurationError``.
    """
    if warn is not None:
        for layer in layers:
            for old in layer.old_names:
                new = layer.label(_OLD_NAMES[old])
                warn(f"{layer.label(old)} is the old name of {new}; --key is the routing key of `superstream publish`")
    uri_depth = visible_uri(layers)
    for depth, layer in enumerate(layers):
        # A URI that a stronger layer hides cannot contradict other settings.
        _check_contradictions(layer if depth == uri_depth else replace(layer, uris=()))
    above_uri = layers[:uri_depth] if uri_depth is not None else layers
    uris = layers[uri_depth] if uri_depth is not None else None

    tls = _first(above_uri, "tls", read.boolean)
    if tls is None:
        tls = uris.uris[0].tls if uris is not None else _first(layers, "tls", read.boolean) or False
    endpoints = _endpoints(layers, above_uri, uris, tls)
    username = _from_uri_or_setting(layers, uri_depth, "username") or DEFAULT_USER
    mechanism = _first(layers, "sasl", read.mechanism) or read.PLAIN
    vhost = _from_uri_or_setting(layers, uri_depth, "vhost")
    context = _tls_context(layers, warn) if tls else None
    if not tls and not _asks_with_tls(layers):
        _check_tls_only(layers)
    if mechanism == read.EXTERNAL and (not tls or not any("cert" in layer for layer in layers)):
        raise ConfigurationError(
            "SASL EXTERNAL logs in with a client certificate",
            hint="pass --tls and --cert, or leave out --sasl external",
        )
    credentials: Credentials | CredentialsFunction = Credentials()
    if mechanism != read.EXTERNAL:
        sources = passwords or PasswordSources()
        credentials = _credentials(layers, username, endpoints[0], sources)
    if mechanism == read.OAUTHBEARER and credentials == Credentials():
        raise ConfigurationError(
            "SASL OAUTHBEARER logs in with a token",
            hint=_withheld_password(layers)
            or "pass --password-command CMD or --password-file FILE, or set RSTREAM_PASSWORD",
        )
    if warn is not None and mechanism != read.EXTERNAL and (why := _withheld_password(layers)) is not None:
        warn(why)
    defaults = ConnectionOptions()
    timeout = _first(layers, "connect_timeout", partial(positive_duration, parse=parse_timeout))
    heartbeat = _first(layers, "heartbeat", read.heartbeat)
    frame_max = _first(layers, "frame_max", read.frame_max)
    return ConnectionOptions(
        endpoints=endpoints,
        credentials=credentials,
        mechanism=mechanism,
        vhost=vhost or defaults.vhost,
        tls=context,
        server_name=_first(layers, "server_name", str) if tls else None,
        load_balancer_mode=_first(layers, "load_balancer", read.boolean) or False,
        connect_timeout=defaults.connect_timeout if timeout is None else timeout,
        heartbeat=defaults.heartbeat if heartbeat is None else heartbeat,
        frame_max=defaults.frame_max if frame_max is None else frame_max,
        connection_name=connection_name,
    )


def build_recovery(layers: Sequence[Layer]) -> Recovery | None:
    """Returns the recovery policy; None for no recovery. Raises ``ConfigurationError``."""
    seconds = _first(layers, "recover_for", parse_duration)
    if seconds is None:
        return RECOVER
    return Recovery(seconds=seconds) if seconds else None


def build_wait(layers: Sequence[Layer]) -> float:
    """Seconds for the first connection; 0 where it is tried once. Raises ``ConfigurationError``."""
    return _first(layers, "wait_for_broker", parse_duration) or 0.0


# --- URIs and contradictions ------------------------------------------------------------------------------


def _read_uris(layer: Layer) -> Layer:
    """Parses the URIs of a layer, which are separated by white space or commas."""
    if "uri" not in layer:
        return layer
    texts = split_uris(layer.values["uri"])
    uris = tuple(_parsed(read.stream_uri, text, layer.label("uri")) for text in texts)
    for what, name in (("tls", "scheme"), ("username", "user name"), ("password", "password")):
        if len({getattr(uri, what) for uri in uris if getattr(uri, what) is not None}) > 1:
            raise ConfigurationError(f"the URIs of {layer.label('uri')} differ in their {name}")
    if len({uri.vhost for uri in uris if uri.vhost is not None}) > 1:
        raise ConfigurationError(f"the URIs of {layer.label('uri')} differ in their virtual host")
    return replace(layer, uris=uris, ports_given=tuple(urlsplit(text).port is not None for text in texts))


def split_uris(text: str) -> list[str]:
    """Returns the URIs of a text."""
    return [uri for uri in re.split(r"[\s,]+(?=rabbitmq-stream)", text.strip()) if uri]


def _check_contradictions(layer: Layer) -> None:
    label = layer.label
    if layer.uris:
        for name in ("host", "port"):
            if name in layer:
                raise ConfigurationError(
                    f"{label('uri')} and {label(name)} contradict each other",
                    hint="write the host and the port into the URI",
                )
        for name, said in (
            ("username", in_uris(layer, "username")),
            ("password_file", in_uris(layer, "password")),
            ("password_command", in_uris(layer, "password")),
            ("password", in_uris(layer, "password")),
            ("vhost", in_uris(layer, "vhost")),
        ):
            if name in layer and said is not None:
                raise ConfigurationError(f"{label(name)} contradicts {label('uri')}, which names one too")
        if "tls" in layer and _parsed(read.boolean, layer.values["tls"], label("tls")) != layer.uris[0].tls:
            flag = label("tls")
            if layer.uris[0].tls:
                flag = flag.replace("--tls", "--no-tls") if layer.explicit else f"{flag} (no)"
            scheme = "rabbitmq-stream+tls" if layer.uris[0].tls else "rabbitmq-stream"
            raise ConfigurationError(
                f"{flag} contradicts {scheme}://",
                hint="the scheme of the URI decides: rabbitmq-stream:// or rabbitmq-stream+tls://",
            )
    for one, other in (*combinations(PASSWORDS, 2), ("insecure", "ca_file")):
        if one in layer and other in layer and _is_on(layer, one):
            raise ConfigurationError(f"{label(one)} and {label(other)} contradict each other")


def _is_on(layer: Layer, name: str) -> bool:
    return name != "insecure" or _parsed(read.boolean, layer.values[name], layer.label(name))


def visible_uri(layers: Sequence[Layer]) -> int | None:
    """Returns the index of the layer whose URI counts: the strongest with one, unless a stronger layer has a host."""
    for depth, layer in enumerate(layers):
        if layer.uris:
            return depth
        if "host" in layer:
            return None
    return None


def _address_depth(layers: Sequence[Layer]) -> int | None:
    """Returns the index of the layer that gives the broker's address; None for the default one."""
    return next((depth for depth, layer in enumerate(layers) if layer.uris or "host" in layer), None)


def in_uris(layer: Layer, what: str) -> str | None:
    return next((getattr(uri, what) for uri in layer.uris if getattr(uri, what)), None)


def _endpoints(
    layers: Sequence[Layer], above_uri: Sequence[Layer], uris: Layer | None, tls: bool
) -> tuple[Endpoint, ...]:
    port = _first(above_uri, "port", read.port)
    default_port = TLS_PORT if tls else PLAIN_PORT
    if uris is None:
        host = _first(layers, "host", read.host) or "localhost"
        return (Endpoint(host.removeprefix("[").removesuffix("]"), port or default_port),)
    return tuple(
        Endpoint(uri.endpoint.host, port or (uri.endpoint.port if given else default_port))
        for uri, given in zip(uris.uris, uris.ports_given, strict=True)
    )


# --- who ---------------------------------------------------------------------------------------------------


def _from_uri_or_setting(layers: Sequence[Layer], uri_depth: int | None, name: str) -> str | None:
    for depth, layer in enumerate(layers):
        if name in layer:
            return layer.values[name]
        said = in_uris(layer, name) if depth == uri_depth else None
        if said is not None:
            return said
    return None


def _credentials(
    layers: Sequence[Layer], user: str, endpoint: Endpoint, passwords: PasswordSources
) -> Credentials | CredentialsFunction:
    source = _password_source(layers, user)
    if source is not None:
        depth, name = source
        layer = layers[depth]
        text, label = layer.values[name], layer.label(name)
        if name == "password_command":
            return passwords.credentials_by_command(user, text, label)
        if name == "password_file":
            return Credentials(user, read_password_file(text, label))
        return Credentials(user, text if name == "password" else in_uris(layer, "password") or "")
    if user == DEFAULT_USER:
        return Credentials()
    typed = passwords.ask(f"password of {user} at {endpoint}: ")
    if typed is not None:
        return Credentials(user, typed)
    raise ConfigurationError(
        f"no password is given for the user {user!r}",
        hint=_withheld_password(layers) or passwords.ways,
    )


def _password_source(layers: Sequence[Layer], user: str) -> tuple[int, str] | None:
    """Returns the index of the layer whose password is used for this user, and the name of its setting, or ``uri``."""
    uri_depth = visible_uri(layers)
    for depth, layer in enumerate(layers):
        if not may_send(layers, depth, user):
            continue
        for name in PASSWORDS:
            if name in layer:
                return depth, name
        is_for_user = depth == uri_depth and user == (in_uris(layer, "username") or DEFAULT_USER)
        if is_for_user and in_uris(layer, "password") is not None:
            return depth, "uri"
    return None


def _withheld_password(layers: Sequence[Layer]) -> str | None:
    """Returns a sentence on a password that is given and not used; None where there is none."""
    for layer in layers:
        for name in PASSWORDS if layer.withheld is not None else ():
            if name in layer:
                return f"{layer.label(name)} is not used: {layer.withheld}"
    return None


def may_send(layers: Sequence[Layer], number: int, user: str) -> bool:
    """Returns whether a password of this layer may be sent for this user.

    That of a context goes to the context's own user alone, and not to an address that hides the context's own.
    """
    layer = layers[number]
    if layer.withheld is not None:
        return False
    if not layer.is_context:
        return True
    own = layer.values.get("username") or in_uris(layer, "username")
    return own in (None, user) and not _is_hidden(layers, number)


def _is_hidden(layers: Sequence[Layer], number: int) -> bool:
    """Returns whether this layer is a context of which another address hides its own."""
    layer = layers[number]
    return layer.is_context and gives_address([layer]) and _address_depth(layers) not in (None, number)


def username_of(layers: Sequence[Layer]) -> str:
    """Returns the user name that the layers give, or the default one."""
    return _from_uri_or_setting(layers, visible_uri(layers), "username") or DEFAULT_USER


# --- TLS ---------------------------------------------------------------------------------------------------


def _tls_context(layers: Sequence[Layer], warn: Callable[[str], None] | None) -> ssl.SSLContext:
    ca_file, ca_label = _first_with_label(layers, "ca_file")
    cert, cert_label = _first_with_label(layers, "cert")
    key, key_label = _first_with_label(layers, "cert_key")
    if key is not None and cert is None:
        raise ConfigurationError(f"{key_label} needs a certificate", hint="pass --cert FILE")
    if ca_file is not None:
        _check_file(ca_file, ca_label)
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (ssl.SSLError, OSError):
        raise ConfigurationError(f"{ca_label}: {ca_file!r} holds no certificate in PEM form") from None
    if cert is not None:
        _check_file(cert, cert_label)
        if key is not None:
            _check_file(key, key_label)
        try:
            # Without a password callback OpenSSL would ask for the password on the terminal.
            context.load_cert_chain(cert, key, password=lambda: "")
        except (ssl.SSLError, OSError) as error:
            where = f"{cert_label} {cert!r}" + (f" with {key_label} {key!r}" if key is not None else "")
            reason = getattr(error, "reason", None) or "not in PEM form, or the key is encrypted"
            raise ConfigurationError(f"{where}: not a certificate with its key ({reason})") from None
    if _first(layers, "insecure", read.boolean):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if warn is not None:
            warn(INSECURE_WARNING)
    return context


def _check_tls_only(layers: Sequence[Layer]) -> None:
    """Raises an error for an explicit TLS option without TLS: protection must not be dropped silently."""
    for layer in layers:
        for name in _TLS_ONLY if layer.explicit else ():
            if name in layer:
                raise ConfigurationError(
                    f"{layer.label(name)} has no effect without TLS",
                    hint="pass --tls, or a URI that begins with rabbitmq-stream+tls://",
                )


def _check_file(path: str, label: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise ConfigurationError(f"{label}: cannot read {path!r}: {error.strerror}") from None


# --- single values -----------------------------------------------------------------------------------------


def _first(layers: Sequence[Layer], name: str, parse: Callable[[str], T]) -> T | None:
    for layer in layers:
        if name in layer:
            return _parsed(parse, layer.values[name], layer.label(name))
    return None


def _first_with_label(layers: Sequence[Layer], name: str) -> tuple[str | None, str]:
    for layer in layers:
        if name in layer:
            return layer.values[name], layer.label(name)
    return None, ""


def _parsed(parse: Callable[[str], T], text: str, label: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        hint = error.hint if isinstance(error, ConfigurationError) else None
        raise ConfigurationError(f"{label}: {error}", hint=hint) from None
