"""The one setting that gives a protection up: only a clear yes does."""

from __future__ import annotations

import ssl

import pytest

from rstream_cli.connection_settings import INSECURE_WARNING, build_options, command_line_layer, environment_layer
from rstream_core import ConfigurationError

TLS = {"RSTREAM_URI": "rabbitmq-stream+tls://somewhere"}


def mode(variables: dict[str, str], options: dict[str, str]) -> tuple[ssl.VerifyMode, bool, list[str]]:
    """Whether certificates are verified, whether their names are, and what is warned of."""
    warned: list[str] = []
    layers = [command_line_layer(options), environment_layer({**TLS, **variables})]
    context = build_options(layers, warn=warned.append).tls
    assert context is not None
    return context.verify_mode, context.check_hostname, warned


@pytest.mark.parametrize("word", ["no", "No", "NO", "0", "false", "off", " no ", ""])
def test_a_no_is_a_no(word: str) -> None:
    assert mode({"RSTREAM_INSECURE": word}, {}) == (ssl.CERT_REQUIRED, True, [])


@pytest.mark.parametrize("word", ["yes", "Yes", "1", "true", "on"])
def test_a_yes_is_a_yes_and_is_told(word: str) -> None:
    assert mode({"RSTREAM_INSECURE": word}, {}) == (ssl.CERT_NONE, False, [INSECURE_WARNING])


@pytest.mark.parametrize("word", ["maybe", "n", "nope", "2"])
def test_what_is_neither_is_an_error(word: str) -> None:
    with pytest.raises(ConfigurationError, match="RSTREAM_INSECURE: not yes or no"):
        mode({"RSTREAM_INSECURE": word}, {})


def test_the_command_line_counts_before_the_environment() -> None:
    assert mode({"RSTREAM_INSECURE": "yes"}, {"insecure": "no"})[0] is ssl.CERT_REQUIRED
    assert mode({"RSTREAM_INSECURE": "no"}, {"insecure": "yes"})[0] is ssl.CERT_NONE


def test_a_no_and_an_authority_do_not_contradict_each_other() -> None:
    """As a yes and an authority do: the file is looked at then."""
    with pytest.raises(ConfigurationError, match="cannot read '/no/such'"):
        mode({"RSTREAM_INSECURE": "no", "RSTREAM_CA_FILE": "/no/such"}, {})
    with pytest.raises(ConfigurationError, match="contradict each other"):
        mode({"RSTREAM_INSECURE": "yes", "RSTREAM_CA_FILE": "/no/such"}, {})
