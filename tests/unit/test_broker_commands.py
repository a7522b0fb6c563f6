"""The embedded broker's table of commands: what it says that it knows, it carries out."""

from __future__ import annotations

from rstream_core.broker.commands import _COMMANDS, _OUR_VERSIONS
from rstream_core.protocol import commands as c

ELSEWHERE = {c.Key.PUBLISH, c.Key.HEARTBEAT}
"""A Publish has a way of its own, and heartbeats are the session's."""


def test_every_command_that_the_broker_offers_has_a_handler() -> None:
    offered = {versions.key for versions in _OUR_VERSIONS}
    assert offered - ELSEWHERE == _COMMANDS.keys() - {c.Key.EXCHANGE_COMMAND_VERSIONS}


def test_each_handler_is_that_of_one_command() -> None:
    handlers = [command.handler for command in _COMMANDS.values()]
    assert len(set(handlers)) == len(handlers)
