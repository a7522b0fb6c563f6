"""The second side of a command: whose address, user and password go there, and whose never do."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import pytest

from rstream_cli.contexts import Contexts, write_contexts
from rstream_cli.environment import Environment
from rstream_cli.exit_status import CommandError
from rstream_cli.options.connecting import ConnectionSettings
from rstream_cli.options.other_side import BOTH, OtherSideOptions, other_side
from rstream_core import ConfigurationError, Credentials, Endpoint

FIRST = {
    "RSTREAM_HOST": "first",
    "RSTREAM_PORT": "1",
    "RSTREAM_VHOST": "v1",
    "RSTREAM_USERNAME": "one",
    "RSTREAM_PASSWORD": "of-the-first",
    "RSTREAM_LOAD_BALANCER": "yes",
    "RSTREAM_RECOVER_FOR": "7s",
}
URI = "rabbitmq-stream://second"


def settings(
    options: OtherSideOptions, variables: Mapping[str, str] | None = None, values: Mapping[str, str] | None = None
) -> ConnectionSettings:
    env = Environment(io.StringIO(), io.StringIO(), io.StringIO(), {**FIRST, **(variables or {})})
    found = other_side(ConnectionSettings(env, values or {}, uses_contexts=True, command="rstream diff"), options)
    assert found is not None
    return found


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The variables of a user with two contexts, of which one is in use."""
    named = {
        "used": {"uri": "rabbitmq-stream://three:of-the-used@third/v3"},
        "prod": {"uri": "rabbitmq-stream://two:of-prod@second:2/v2", "recover_for": "9s", "load_balancer": "no"},
        "bare": {"uri": "rabbitmq-stream://two@second:2/v2"},
    }
    variables = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    write_contexts(Contexts(str(tmp_path / "rstream" / "contexts.toml"), named, used="used"))
    return variables


def test_without_the_options_there_is_no_other_side() -> None:
    env = Environment(io.StringIO(), io.StringIO(), io.StringIO(), {"RSTREAM_TO_PASSWORD": "x"})
    assert other_side(ConnectionSettings(env), OtherSideOptions()) is None


@pytest.mark.parametrize("values", [{}, {"username": "one", "password_file": "/no/such", "uri": "rabbitmq-stream://x"}])
def test_nothing_of_the_first_side_goes_to_an_address(home: dict[str, str], values: dict[str, str]) -> None:
    """Its host, user and password, of options, variables and the context in use: the other side has the defaults."""
    options = settings(OtherSideOptions(to_uri=URI), {**home, "RSTREAM_CONTEXT": "prod"}, values).options
    assert options.endpoints == (Endpoint("second", 5552),)
    assert (options.credentials, options.vhost) == (Credentials("guest", "guest"), "/")
    assert not options.load_balancer_mode
    assert options.connection_name == "rstream diff"


def test_a_context_has_its_own(home: dict[str, str]) -> None:
    options = settings(OtherSideOptions(to_context="prod"), home).options
    assert options.endpoints == (Endpoint("second", 2),)
    assert (options.credentials, options.vhost) == (Credentials("two", "of-prod"), "v2")


@pytest.mark.parametrize("to", [OtherSideOptions(to_uri="rabbitmq-stream://two@second:2"), OtherSideOptions("bare")])
def test_the_password_is_of_a_variable_or_a_file(home: dict[str, str], to: OtherSideOptions, tmp_path: Path) -> None:
    password = settings(to, {**home, "RSTREAM_TO_PASSWORD": "of-the-second"}).options.credentials
    assert password == Credentials("two", "of-the-second")
    file = tmp_path / "password"
    file.write_text("of-the-file\n")
    to = OtherSideOptions(to.to_context, to.to_uri, str(file))
    password = settings(to, {**home, "RSTREAM_TO_PASSWORD": "of-the-second"}).options.credentials
    assert password == Credentials("two", "of-the-file")


def test_a_password_of_a_context_is_stronger_than_the_variable(home: dict[str, str]) -> None:
    found = settings(OtherSideOptions("prod"), {**home, "RSTREAM_TO_PASSWORD": "x"}).options.credentials
    assert found == Credentials("two", "of-prod")


def test_patience_is_of_both_sides(home: dict[str, str]) -> None:
    def seconds(to: OtherSideOptions, values: dict[str, str]) -> float:
        recovery = settings(to, home, values).recovery
        assert recovery is not None
        return recovery.seconds

    assert seconds(OtherSideOptions(to_uri=URI), {}) == 7  # the variable's
    assert seconds(OtherSideOptions("prod"), {}) == 9  # its own
    assert seconds(OtherSideOptions("prod"), {"recover_for": "3s"}) == 3  # the command line's
    values = {"connect_timeout": "2s", "heartbeat": "4s", "frame_max": "64KiB", "wait_for_broker": "5s"}
    found = settings(OtherSideOptions("prod"), home, values)
    assert (found.options.connect_timeout, found.options.heartbeat, found.options.frame_max) == (2, 4, 65_536)
    assert found.wait_for_broker == 5
    assert set(values) | {"recover_for"} == BOTH
    with pytest.raises(ConfigurationError, match="--connect-timeout: not a duration: 'soon'"):
        _ = settings(OtherSideOptions("prod"), home, {"connect_timeout": "soon"}).options


@pytest.mark.parametrize(
    ("to", "message"),
    [
        (OtherSideOptions(to_context="c", to_uri=URI), "--to-context and --to-uri contradict each other"),
        (OtherSideOptions(to_password_file="f"), "--to-password-file needs --to-uri or --to-context"),
        (OtherSideOptions(to_uri="rabbitmq-stream://u:hunter2@h"), "--to-uri holds a password, which"),
        (OtherSideOptions(to_uri="rabbitmq-stream://h,rabbitmq-stream://u:hunter2@h"), "--to-uri holds a password"),
        (OtherSideOptions(to_uri="amqp://u:hunter2@h"), "--to-uri: a URI begins with rabbitmq-stream://"),
        (OtherSideOptions(to_uri=" "), "--to-uri is empty"),
        (OtherSideOptions(to_context="none"), "there is no context 'none'"),
        (OtherSideOptions(to_uri=URI, to_password_file="/no/such"), "--to-password-file: cannot read '/no/such'"),
        (OtherSideOptions(to_uri="rabbitmq-stream://u@h"), "no password is given for the user 'u'"),
    ],
)
def test_what_cannot_be(home: dict[str, str], to: OtherSideOptions, message: str) -> None:
    with pytest.raises((CommandError, ConfigurationError)) as caught:
        _ = settings(to, home).options
    assert str(caught.value).startswith(message)
    assert isinstance(caught.value, CommandError | ConfigurationError)
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"
    if "no password" in message:
        hint = "pass --to-password-file FILE, set RSTREAM_TO_PASSWORD, or pass --to-context CONTEXT"
        assert caught.value.hint == hint
