"""``rstream_core.compat`` against the published client's wheels: its names, its arguments, and its readme's code."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib
import inspect
import re
import ssl
import subprocess
import sys
import textwrap
import typing
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rstream_core import Client, compat
from rstream_core.compat import connecting, superstream_producer
from rstream_core.protocol.amqp import body_of
from tests.brokers import Broker
from tests.certificates import Authority
from tests.clients import PATIENCE, arguments_for, eventually
from tests.conformance.test_compat_programs import source
from tests.conftest import OwnRabbitMQ
from tests.published import VERSIONS, code_blocks, exported, methods, public_names
from tests.recovering import stored

CLASSES = {
    "Producer": "producer",
    "Consumer": "consumer",
    "SuperStreamProducer": "superstream_producer",
    "SuperStreamConsumer": "superstream_consumer",
}
LEFT_OUT = {
    "constants": {"Key"},  # of the wire
    "utils": {"TimeoutWrapper"},  # of its requests
    "compression": {"MessageT"},
    "recovery": {"MT"},
    "superstream": {
        "MessageT",
        "Metadata",
        "DefaultSuperstreamMetadata",
        "RoutingStrategy",
        "RoutingKeyRoutingStrategy",
        "HashRoutingMurmurStrategy",
    },  # how its producer routes inside
}
"""Names of its modules that are not for programs."""
INSIDE = {"clean_up_publishers", "clean_up_subscribers", "get_available_id", "default_client"}
INSIDE |= {"maybe_restart_producer", "maybe_restart_subscriber"}
"""Methods that are not for programs."""


@pytest.mark.parametrize("version", VERSIONS)
def test_its_names_are_there(version: str) -> None:
    names = exported(version)
    assert len(names) >= 18
    assert [name for name in names if not hasattr(compat, name)] == []
    for module in ("exceptions", "constants", "utils", "amqp", "compression", "recovery", "superstream"):
        if module == "recovery" and version == "0.12.0":  # which has none
            continue
        ours = importlib.import_module(f"rstream_core.compat.{module}")
        missing = public_names(version, module) - LEFT_OUT.get(module, set()) - set(vars(ours))
        assert missing == set(), f"{module}: {missing}"


def arguments_of(name: str) -> set[str]:
    """Those that one of our constructors takes, those that it passes on too."""
    parameters = inspect.signature(getattr(compat, name)).parameters
    passed_on = connecting.Connecting if name != "SuperStreamProducer" else superstream_producer.ProducerArguments
    return set(parameters) | set(typing.get_type_hints(passed_on))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", CLASSES)
def test_its_arguments_and_methods_are_there(version: str, name: str) -> None:
    theirs = methods(version, CLASSES[name], name)
    assert set(theirs.pop("__init__")) - arguments_of(name) == set()
    for method, arguments in theirs.items():
        if method in INSIDE:
            continue
        ours = inspect.signature(getattr(getattr(compat, name), method)).parameters
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in ours.values())
        assert takes_all or set(arguments) - set(ours) == set(), method


# --- the code of its readme --------------------------------------------------------------------------------


class Readme:
    """The blocks of one version, with what surrounds them: names that they use, a broker, a stream."""

    def __init__(self, broker: Broker, stream: str, client: Client, producer: compat.Producer) -> None:
        self.broker = broker
        self.stream = stream
        self.client = client
        self.producer = producer
        self.names: dict[str, Any] = {name: getattr(compat, name) for name in compat.__all__}
        self.names |= {
            "ssl": ssl,
            "STREAM": stream,
            "producer": producer,
            "i": 7,
            "messages": [compat.AMQPMessage(body=b"%d" % number) for number in range(3)],
            "ARGUMENTS": arguments_for(broker),
        }

    async def execute(self, block: str) -> None:
        code = compile(runnable(block), "METADATA", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        async with asyncio.timeout(PATIENCE):
            if (result := eval(code, self.names)) is not None:
                await result

    async def stored(self) -> list[bytes | None]:
        await self.producer.flush(PATIENCE)
        return [body_of(message) for message in await stored(self.client, self.stream)]


def runnable(block: str) -> str:
    """A block as Python: what stands for arguments is arguments, what has no end gets one, and loops are short."""
    lines = [line for line in block.splitlines() if not line.strip().startswith("#")]
    text = textwrap.dedent("\n".join(lines)).strip()
    text = re.sub(r"^\s*\.\.\.? *$", "    **ARGUMENTS,", text, flags=re.MULTILINE)
    text = text.replace("1_000_000", "1_000")
    if text.count("(") > text.count(")"):
        text += "\n) as producer:\n    EXISTS = await producer.stream_exists(STREAM)"
    return text


async def message(readme: Readme, block: str) -> None:
    await readme.execute(block)
    await readme.producer.send_wait(readme.stream, readme.names["amqp_message"])
    assert await readme.stored() == [b"hello: 7"]


async def sub_entry(readme: Readme, block: str) -> None:
    await readme.execute(block)
    assert await readme.stored() == [b"0", b"1", b"2"]


async def loop(readme: Readme, block: str) -> None:
    await readme.execute(block)
    if "AMQPMessage" in block:
        assert await readme.stored() == [b"hello: %d" % number for number in range(1000)]
    else:
        await readme.producer.flush(PATIENCE)
        assert await stored(readme.client, readme.stream) == [b"hello"] * 1000


async def consumer(readme: Readme, block: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its consumer reads a message; a handler is told when the stream is deleted."""
    await readme.execute(block)
    made = readme.names["consumer"]
    assert type(made) is compat.Consumer
    await readme.producer.send_wait(readme.stream, b"first")
    seen: list[bytes] = []
    await made.start()
    await made.subscribe(readme.stream, lambda message, context: seen.append(message))
    await eventually(lambda: seen == [b"first"])
    if "def on_connection_closed" in block:
        await readme.client.delete_stream(readme.stream)
        printed = ""

        def is_told() -> bool:
            nonlocal printed
            printed += capsys.readouterr().out
            return "connection has been closed" in printed

        await eventually(is_told)
        assert readme.stream in printed
    await made.close()


async def transcript(readme: Readme, block: str) -> None:
    """A command and what it prints: a program of ours of that name prints the same, but for the numbers."""
    shell, printed = block.strip().splitlines()
    name = Path(shell.split()[-1]).stem
    program = source(name, readme.broker, readme.stream)
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert re.fullmatch(re.sub(r"\d[\d.,]*\d", r"[\\d.,]+", printed.strip()), done.stdout.strip())
    assert len(await stored(readme.client, readme.stream)) == 1000


def kind_of(block: str) -> str:
    """Which of these a block is; an error where it is another one, or could be two."""
    signs = {
        "transcript": block.startswith("$"),
        "loop": "for i in range" in block,
        "message": "amqp_message = AMQPMessage" in block and "for i" not in block,
        "sub_entry": "send_sub_entry" in block,
        "external": "MechanismExternal" in block,
        "consumer": "consumer = Consumer(" in block,
    }
    (kind,) = [kind for kind, is_one in signs.items() if is_one]
    return kind


COUNTS = {
    "0.12.0": {"message": 1, "sub_entry": 1, "consumer": 1, "loop": 2, "transcript": 2},
    "1.1.1": {"message": 1, "sub_entry": 1, "external": 1, "consumer": 2, "loop": 2, "transcript": 2},
}


@contextlib.asynccontextmanager
async def surroundings(broker: Broker, stream: str) -> AsyncIterator[Readme]:
    async with (
        compat.Producer(**arguments_for(broker)) as producer,
        compat.SuperStreamConsumer(**arguments_for(broker), super_stream=stream) as any_client,
    ):
        client = any_client.client
        await client.create_stream(stream)
        try:
            yield Readme(broker, stream, client, producer)
        finally:
            await client.delete_stream(stream, missing_ok=True)


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_code_of_its_readme_runs(
    version: str, broker: Broker, stream_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = code_blocks(version)
    kinds = [kind_of(block) for block in blocks]
    assert {kind: kinds.count(kind) for kind in kinds} == COUNTS[version]
    for number, (kind, block) in enumerate(zip(kinds, blocks, strict=True)):
        async with surroundings(broker, f"{stream_name}-{number}") as readme:
            if kind == "consumer":
                await consumer(readme, block, capsys)
            elif kind != "external":  # see below
                await {"message": message, "sub_entry": sub_entry, "loop": loop, "transcript": transcript}[kind](
                    readme, block
                )


@pytest.mark.slow
async def test_its_readmes_login_by_a_certificate(
    own_rabbitmq: OwnRabbitMQ, tmp_path: Path, stream_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = [block for block in code_blocks("1.1.1") if kind_of(block) == "external"]
    authority = Authority.make(tmp_path)
    options = ["--tls", str(authority.for_broker(alternatives=("DNS:localhost",))), "--advertised-host", "localhost"]
    for setting in ("auth_mechanisms.1=PLAIN", "auth_mechanisms.2=EXTERNAL", "ssl_cert_login_from=common_name"):
        options += ["--config", setting]
    broker = own_rabbitmq(*options)
    broker.ctl("add_user", "alice", "not needed")
    broker.ctl("set_permissions", "alice", ".*", ".*", ".*")
    names = {
        "certs/ca_certificate.pem": tmp_path / "ca.pem",
        "certs/client_HOSTNAME_certificate.pem": None,
        "certs/client_HOSTNAME_key.pem": None,
    }
    certificate, key = authority.issue("alice", "alice", alternatives=())
    names["certs/client_HOSTNAME_certificate.pem"], names["certs/client_HOSTNAME_key.pem"] = certificate, key
    for old, new in names.items():
        assert block.count(old) == 1
        block = block.replace(old, str(new))
    block = block.replace('"HOSTNAME"', '"localhost"').replace("5551", str(broker.tls_port))
    async with surroundings(broker, stream_name) as readme:
        await readme.execute(block)
        assert readme.names["EXISTS"] is True
