"""The layers of connection settings: precedence, contradictions, and what may never be combined."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from rstream_cli.connection_settings import build_options, command_line_layer, environment_layer
from rstream_core import ConfigurationError, ConnectionOptions, Credentials, Endpoint

PLAIN = "rabbitmq-stream://"
TLS = "rabbitmq-stream+tls://"


def build(
    options: dict[str, str] | None = None, env: dict[str, str] | None = None, warned: list[str] | None = None
) -> ConnectionOptions:
    """The options of a command line and an environment."""
    layers = [
        command_line_layer(options or {}),
        environment_layer({f"RSTREAM_{name.upper()}": text for name, text in (env or {}).items()}),
    ]
    return build_options(layers, warn=None if warned is None else warned.append)


def test_nothing_said_is_guest_at_localhost() -> None:
    built = build()
    assert built.endpoints == (Endpoint("localhost", 5552),)
    assert (built.credentials, built.vhost) == (Credentials("guest", "guest"), "/")
    assert built.tls is None
    assert build({}, {"host": "", "password": ""}) == built


@pytest.mark.parametrize(
    ("options", "env", "expected"),
    [
        ({"host": "a"}, {}, [("a", 5552)]),
        ({"host": "a", "tls": "yes"}, {}, [("a", 5551)]),
        ({"port": "1"}, {}, [("localhost", 1)]),
        ({}, {"host": "a", "port": "1"}, [("a", 1)]),
        ({"host": "b"}, {"host": "a", "port": "1"}, [("b", 1)]),
        ({"host": "[::1]"}, {}, [("::1", 5552)]),
        ({"uri": PLAIN + "a"}, {"host": "b", "port": "1"}, [("a", 5552)]),
        ({"uri": f"{PLAIN}a\n{PLAIN}b:1"}, {}, [("a", 5552), ("b", 1)]),
        ({}, {"uri": f"{PLAIN}a, {PLAIN}b:1"}, [("a", 5552), ("b", 1)]),
        ({"host": "b"}, {"uri": PLAIN + "a:1"}, [("b", 5552)]),
        ({"port": "2"}, {"uri": PLAIN + "a:1"}, [("a", 2)]),
        ({"tls": "yes"}, {"uri": PLAIN + "a"}, [("a", 5551)]),
        ({"tls": "yes"}, {"uri": PLAIN + "a:5552"}, [("a", 5552)]),
        ({"tls": "no"}, {"uri": TLS + "a"}, [("a", 5552)]),
        ({"uri": "RabbitMQ-Stream+TLS://a"}, {}, [("a", 5551)]),
        ({"uri": "RABBITMQ-STREAM://a", "management_uri": "HTTPS://a", "insecure": "yes"}, {}, [("a", 5552)]),
    ],
)
def test_where(options: dict[str, str], env: dict[str, str], expected: list[tuple[str, int]]) -> None:
    assert [(e.host, e.port) for e in build(options, env).endpoints] == expected


@pytest.mark.parametrize(
    ("options", "env", "expected"),
    [
        ({"uri": PLAIN + "u:p@a/v"}, {}, ("u", "p", "v")),
        ({"uri": f"{PLAIN}u:p@a/v {PLAIN}b"}, {}, ("u", "p", "v")),
        ({}, {"username": "u", "password": "p", "vhost": "v"}, ("u", "p", "v")),
        ({"uri": PLAIN + "u:p@a"}, {"username": "x", "password": "y", "vhost": "v"}, ("u", "p", "v")),
        ({"uri": PLAIN + "u@a"}, {"password": "p"}, ("u", "p", "/")),
        ({"username": "u"}, {"password": "p"}, ("u", "p", "/")),
        ({"username": "u"}, {"uri": PLAIN + "u:p@a"}, ("u", "p", "/")),
        ({"vhost": "w"}, {"uri": PLAIN + "u:p@a/v"}, ("u", "p", "w")),
        ({"host": "b"}, {"uri": PLAIN + "u:p@a/v"}, ("guest", "guest", "/")),
        ({"username": "guest"}, {"uri": PLAIN + "u:p@a"}, ("guest", "guest", "/")),
    ],
)
def test_who(options: dict[str, str], env: dict[str, str], expected: tuple[str, str, str]) -> None:
    built = build(options, env)
    assert (built.credentials, built.vhost) == (Credentials(*expected[:2]), expected[2])


@pytest.mark.parametrize(
    ("options", "env", "message"),
    [
        ({"uri": PLAIN + "a", "host": "b"}, {}, "--uri and --host contradict each other"),
        ({"uri": PLAIN + "a", "port": "1"}, {}, "--uri and --port contradict each other"),
        ({}, {"uri": PLAIN + "a", "host": "b"}, "RSTREAM_URI and RSTREAM_HOST contradict each other"),
        ({"uri": PLAIN + "u:p@a", "username": "x"}, {}, "--username contradicts --uri, which names one too"),
        ({"uri": PLAIN + "a/v", "vhost": "v"}, {}, "--vhost contradicts --uri, which names one too"),
        ({"uri": PLAIN + "u:p@a", "password_file": "x"}, {}, "--password-file contradicts --uri, which"),
        ({"uri": PLAIN + "a", "tls": "yes"}, {}, "--tls contradicts rabbitmq-stream://"),
        ({"uri": TLS + "a", "tls": "no"}, {}, "--no-tls contradicts rabbitmq-stream+tls://"),
        ({"uri": f"{PLAIN}a {TLS}b"}, {}, "the URIs of --uri differ in their scheme"),
        ({"uri": f"{PLAIN}u:p@a {PLAIN}x:p@b"}, {}, "the URIs of --uri differ in their user name"),
        ({"uri": f"{PLAIN}u:p@a {PLAIN}u:q@b"}, {}, "the URIs of --uri differ in their password"),
        ({"uri": f"{PLAIN}a/v {PLAIN}b/w"}, {}, "the URIs of --uri differ in their virtual host"),
        ({"uri": "amqp://a"}, {}, "--uri: a URI begins with rabbitmq-stream://"),
        ({}, {"uri": "a:5552"}, "RSTREAM_URI: a URI begins with rabbitmq-stream://"),
        ({"host": " "}, {}, "--host is empty"),
        ({"port": "0"}, {}, "--port: not a port: '0'"),
        ({"port": "٣"}, {}, "--port: not a port"),
        ({}, {"port": "x"}, "RSTREAM_PORT: not a port: 'x'"),
        ({}, {"tls": "maybe"}, "RSTREAM_TLS: not yes or no: 'maybe'"),
        ({"connect_timeout": "0"}, {}, "--connect-timeout: must be more than 0"),
        ({"connect_timeout": "soon"}, {}, "--connect-timeout: not a duration: 'soon'"),
        ({"heartbeat": "1.5s"}, {}, "--heartbeat: not a whole number of seconds"),
        ({"username": "u"}, {}, "no password is given for the user 'u'"),
        ({"username": "u"}, {"uri": PLAIN + "x:p@a"}, "no password is given for the user 'u'"),
        ({}, {"password": "p", "password_file": "f"}, "RSTREAM_PASSWORD and RSTREAM_PASSWORD_FILE contradict"),
        ({"password_file": "/no/such"}, {}, "--password-file: cannot read '/no/such': No such file or directory"),
        ({"password_file": "/dev/null"}, {}, "--password-file: the first line of '/dev/null' is empty"),
        ({"ca_file": "x"}, {}, "--ca-file has no effect without TLS"),
        ({"insecure": "yes"}, {}, "--insecure has no effect without TLS"),
        ({"tls": "yes", "cert_key": "x"}, {}, "--cert-key needs a certificate"),
        ({"tls": "yes", "cert_key": "x", "key": "y"}, {}, "--key is the old name of --cert-key: give only one of them"),
        ({"frame_max": "999B"}, {}, "--frame-max: not the size of a frame: '999B'; 0 for no limit, or 1000 bytes to"),
        ({}, {"frame_max": "2GiB"}, "RSTREAM_FRAME_MAX: not the size of a frame: '2GiB'"),
        ({"frame_max": "much"}, {}, "--frame-max: not a size: 'much'"),
        ({"tls": "yes", "ca_file": "/no/such"}, {}, "--ca-file: cannot read '/no/such'"),
        ({"tls": "yes", "ca_file": "/dev/null"}, {}, "--ca-file: '/dev/null' holds no certificate"),
        ({"tls": "yes", "cert": "/dev/null"}, {}, "--cert '/dev/null': not a certificate with its key"),
        ({"tls": "yes", "insecure": "yes", "ca_file": "x"}, {}, "--insecure and --ca-file contradict each other"),
    ],
)
def test_what_cannot_be(options: dict[str, str], env: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build(options, env)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "env", "expected"),
    [
        ({}, {}, ConnectionOptions().frame_max),
        ({"frame_max": "0"}, {"frame_max": "64KiB"}, 0),
        ({}, {"frame_max": "64KiB"}, 65_536),
        ({"frame_max": "1kB"}, {}, 1000),
    ],
)
def test_frame_max(options: dict[str, str], env: dict[str, str], expected: int) -> None:
    assert build(options, env).frame_max == expected


@pytest.mark.parametrize(("place", "label"), [("options", "--{}"), ("env", "RSTREAM_{}")])
def test_the_old_name_of_the_clients_key_warns(place: str, label: str) -> None:
    warned: list[str] = []
    with pytest.raises(ConfigurationError, match="needs a certificate"):
        build(**{place: {"tls": "yes", "key": "x"}}, warned=warned)
    old, new = (label.format("key"), label.format("cert-key"))
    if place == "env":
        old, new = "RSTREAM_KEY", "RSTREAM_CERT_KEY"
    assert warned == [f"{old} is the old name of {new}; --key is the routing key of `superstream publish`"]
    warned.clear()
    with pytest.raises(ConfigurationError, match="needs a certificate"):
        build(**{place: {"tls": "yes", "cert_key": "x"}}, warned=warned)
    assert warned == []


def test_tls_verifies_unless_told_otherwise_loudly() -> None:
    warned: list[str] = []
    for options in ({"tls": "yes"}, {"uri": TLS + "a"}):
        context = build(options, warned=warned).tls
        assert context is not None
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
    assert warned == []

    context = build({"tls": "yes", "insecure": "yes"}, warned=warned).tls
    assert context is not None
    assert context.verify_mode is ssl.CERT_NONE
    assert len(warned) == 1
    assert "NOT verified" in warned[0]


def test_the_environment_may_hold_what_only_tls_uses() -> None:
    assert build({}, {"ca_file": "/no/such", "server_name": "n"}).tls is None
    assert build({}, {"insecure": "1"}).tls is None


def test_the_rest() -> None:
    built = build({"connect_timeout": "500ms", "heartbeat": "0"}, {"load_balancer": "1", "heartbeat": "5"})
    assert (built.connect_timeout, built.heartbeat, built.load_balancer_mode) == (0.5, 0, True)
    assert build({"tls": "yes", "server_name": "n"}).server_name == "n"


def test_the_password_is_the_first_line_without_its_end(tmp_path: Path) -> None:
    file = tmp_path / "p"
    file.write_bytes(" pä ss \r\nmore".encode())
    assert build({"username": "u", "password_file": str(file)}).credentials == Credentials("u", " pä ss ")


def test_no_password_shows_in_the_repr_of_a_layer() -> None:
    said = {"RSTREAM_PASSWORD": "hush", "RSTREAM_URI": "rabbitmq-stream://user:hush@host"}
    for layer in (environment_layer(said), command_line_layer({"uri": said["RSTREAM_URI"]})):
        assert "hush" not in repr(layer)
