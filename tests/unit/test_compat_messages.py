"""The messages, values and codecs of ``rstream_core.compat``: what the published client's programs see of them."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import rstream_core
from rstream_core import compat
from rstream_core.compat import compression, constants, exceptions, utils
from rstream_core.compat.amqp import AMQPMessage, Header, Properties, amqp_decoder
from rstream_core.compat.differences import CompatWarning
from rstream_core.compat.recovery import BackOffRecoveryStrategy, IReliableEntity
from rstream_core.protocol.amqp_types import Array, Described, Float32, Int, Symbol, Timestamp, ULong
from tests import inside


def arrived(**sections: Any) -> AMQPMessage:
    """A message of the core, as it arrives here."""
    return amqp_decoder(bytes(rstream_core.AMQPMessage(**sections)))


# --- what arrives ------------------------------------------------------------------------------------------


def test_text_that_arrives_is_bytes() -> None:
    message = arrived(
        body="größe",
        properties=rstream_core.Properties(message_id="id", content_type="text/plain", group_id="g", creation_time=5),
        application_properties={"region": "New York", "n": 5, "yes": True, "none": None},
        message_annotations={"x-key": "value", 7: 1.5},
        header=rstream_core.Header(durable=True, priority=4),
        delivery_annotations={"to": "ü"},
        footer={"f": [Symbol("a"), {"k": "v"}]},
    )
    assert message.body == "größe".encode()
    assert message.application_properties == {b"region": b"New York", b"n": 5, b"yes": True, b"none": None}
    assert message.application_properties[b"region"] == b"New York"
    assert message.message_annotations == {b"x-key": b"value", 7: 1.5}
    assert message.delivery_annotations == {b"to": "ü".encode()}
    assert message.footer == {b"f": [b"a", {b"k": b"v"}]}
    assert message.header == Header(durable=True, priority=4)
    assert message.properties == Properties(
        message_id=b"id", content_type=b"text/plain", group_id=b"g", creation_time=5
    )
    assert (message.sequence, message.value, message.publishing_id) == (None, None, None)


def test_numbers_that_arrive_are_plain() -> None:
    values = {
        "ulong": ULong(5),
        "int": Int(-5),
        "time": Timestamp(7),
        "float": Float32(1.5),
        "array": Array([Int(1)], "int"),
        "described": Described(Symbol("d"), "v"),
        "id": uuid.UUID(int=3),
        "bytes": b"\xff",
    }
    shown = arrived(value=values).value
    assert shown == {
        b"ulong": 5,
        b"int": -5,
        b"time": 7,
        b"float": 1.5,
        b"array": [1],
        b"described": b"v",
        b"id": uuid.UUID(int=3),
        b"bytes": b"\xff",
    }
    assert {type(value) for value in shown.values()} == {int, float, list, bytes, uuid.UUID}


@pytest.mark.parametrize(("value", "shown"), [("text", b"text"), ({"a": "b"}, {b"a": b"b"}), (0, 0), (False, False)])
def test_a_value_arrives(value: Any, shown: Any) -> None:
    message = arrived(value=value)
    assert (message.value, message.body, message.body_type) == (shown, None, "value")
    assert str(message) == "None"


def test_a_sequence_is_a_list_of_sections() -> None:
    sent = AMQPMessage(sequence=[[1, "a"], ["b"]])
    message = amqp_decoder(bytes(sent))
    assert message.sequence == [[1, b"a"], [b"b"]]
    assert bytes(message) == bytes(sent)
    assert amqp_decoder(bytes(AMQPMessage(sequence=[[1]]))).sequence == [[1]]
    message.sequence = [[1], [2], [3]]
    assert amqp_decoder(bytes(message)).sequence == [[1], [2], [3]]


def test_str_is_that_of_the_body() -> None:
    assert str(AMQPMessage(body=b"hello")) == "b'hello'"
    assert str(arrived(body="hello")) == "b'hello'"


def test_what_arrived_goes_on_with_the_same_bytes() -> None:
    data = bytes(
        rstream_core.AMQPMessage(
            body="b", properties=rstream_core.Properties(message_id="id"), application_properties={"k": "v"}
        )
    )
    message = amqp_decoder(data)
    assert message.properties.message_id == b"id"
    assert message.application_properties == {b"k": b"v"}
    assert bytes(message) == data
    message.application_properties[b"more"] = b"x"
    again = rstream_core.amqp_decoder(bytes(message))
    assert again.application_properties == {"k": b"v", "more": b"x"}
    assert again.properties == rstream_core.Properties(message_id="id")  # which was read, and not changed
    assert again.body == b"b"


def test_a_malformed_message_raises_when_it_is_read() -> None:
    message = amqp_decoder(b"no AMQP")
    with pytest.raises(rstream_core.AmqpError):
        _ = message.properties
    with pytest.raises(rstream_core.AmqpError):
        _ = message.body


# --- what is sent ------------------------------------------------------------------------------------------


def test_a_message_shows_what_it_was_given() -> None:
    given = {"region": "eu"}
    message = AMQPMessage(b"body", properties=Properties("id"), application_properties=given, publishing_id=5)
    assert message.application_properties is given
    assert message.properties == Properties(message_id="id")
    assert message.properties._replace(subject="s").subject == "s"
    given["n"] = "2"  # also after it was made
    message.header = Header(ttl=5)
    sent = rstream_core.amqp_decoder(bytes(message))
    assert sent.application_properties == {"region": "eu", "n": "2"}
    assert sent.properties == rstream_core.Properties(message_id="id")
    assert sent.header == rstream_core.Header(ttl=5)
    assert message.publishing_id == 5
    assert message.delivery_annotations is None


def test_keys_may_be_bytes() -> None:
    message = AMQPMessage(b"", application_properties={b"k": b"v"}, message_annotations={b"a": 1, 7: 2})
    sent = rstream_core.amqp_decoder(bytes(message))
    assert (sent.application_properties, sent.message_annotations) == ({"k": b"v"}, {"a": 1, 7: 2})


def test_a_message_has_one_body() -> None:
    with pytest.raises(ValueError, match="one body"):
        AMQPMessage(b"body", value=5)
    message = AMQPMessage(value=5)
    assert message.body_type == "value"
    message.body = b"now data"
    assert (message.value, rstream_core.amqp_decoder(bytes(message)).body) == (None, b"now data")
    message.value = "now a value"
    assert (message.body, rstream_core.amqp_decoder(bytes(message)).value) == (None, "now a value")
    other = arrived(value=5)
    other.body = b"data"
    assert (other.value, rstream_core.amqp_decoder(bytes(other)).body) == (None, b"data")
    other.value = None
    assert other.value is None


def test_messages_are_compared_copied_and_shown() -> None:
    message = AMQPMessage(b"b", application_properties={"k": 1})
    assert message == AMQPMessage(b"b", application_properties={"k": 1}) != AMQPMessage(b"b")
    assert arrived(body="b", application_properties={"k": 1}) != AMQPMessage(b"b", application_properties={"x": 1})
    assert copy.deepcopy(message) == message
    assert "application_properties={'k': 1}" in repr(message)
    assert "value=5" in repr(AMQPMessage(value=5))
    assert [each.body for each in AMQPMessage.all_from_bytes([bytes(message)])] == [b"b"]


def test_a_raw_message_is_its_bytes() -> None:
    message = utils.RawMessage(b"data", publishing_id=3)
    assert (bytes(message), message.data, message.publishing_id) == (b"data", b"data", 3)
    message.data = b"other"
    assert rstream_core.protocol.amqp.encode_message(message) == b"other"
    assert message == utils.RawMessage(b"other", 3) != utils.RawMessage(b"other")
    assert message != b"other"
    assert repr(message) == "RawMessage(data=b'other', publishing_id=3)"


# --- values ------------------------------------------------------------------------------------------------


def test_a_specification_can_be_changed_and_is_checked_later() -> None:
    specification = constants.ConsumerOffsetSpecification()
    assert (specification.offset_type, specification.offset) == (constants.OffsetType.FIRST, None)
    specification.offset_type, specification.offset = constants.OffsetType.OFFSET, 5
    assert constants.checked(specification) == rstream_core.ConsumerOffsetSpecification(offset=5)
    given = rstream_core.ConsumerOffsetSpecification(offset=7)
    assert constants.checked(given) is given
    for wrong in (
        constants.ConsumerOffsetSpecification(constants.OffsetType.OFFSET),
        constants.ConsumerOffsetSpecification(constants.OffsetType.NEXT, 5),
        constants.ConsumerOffsetSpecification(9, 5),
    ):
        with pytest.raises(ValueError):
            constants.checked(wrong)


def test_a_listener_answers_with_numbers() -> None:
    answer = constants.answered
    assert answer(None) is None
    assert answer(constants.OffsetSpecification(4, 10)) == rstream_core.ConsumerOffsetSpecification(offset=10)
    assert answer(constants.OffsetSpecification(3, 10)) == rstream_core.ConsumerOffsetSpecification(
        rstream_core.OffsetType.NEXT
    )


def test_a_filter_has_methods() -> None:
    def predicate(message: Any) -> bool:
        return bool(message)

    given = utils.FilterConfiguration(["a"], predicate, match_unfiltered=True)
    assert (given.values(), given.post_filler(), given.match_unfiltered()) == (["a"], predicate, True)
    assert utils.checked_filter(given) == rstream_core.FilterConfiguration(["a"], predicate, match_unfiltered=True)
    own = rstream_core.FilterConfiguration(["a"])
    assert utils.checked_filter(own) is own
    with pytest.raises(ValueError, match="at least one"):
        utils.checked_filter(utils.FilterConfiguration([]))


def test_counters() -> None:
    sequence = utils.MonotonicSeq()
    assert [sequence.next(), sequence.next()] == [1, 2]
    sequence.set(7)
    assert sequence.next() == 7
    sequence.reset()
    assert sequence.next() == 1
    number = utils.AtomicInteger(5)
    assert (number.inc(), number.dec(3), number.value, number.swap_value(9), number.value) == (6, 3, 3, 9, 9)


def test_mechanisms_are_text() -> None:
    assert str(constants.SlasMechanism.MechanismExternal) == "EXTERNAL"
    assert constants.SlasMechanism("PLAIN") is constants.SlasMechanism.MechanismPlain


def test_exceptions_are_the_cores() -> None:
    for name in exceptions.__all__:
        if name != "StreamAlreadySubscribed":
            assert getattr(exceptions, name) is getattr(rstream_core, name)
    assert issubclass(exceptions.StreamAlreadySubscribed, rstream_core.ClientError)
    assert str(pickle.loads(pickle.dumps(exceptions.StreamAlreadySubscribed("s")))) == "s"


# --- codecs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(compat.CompressionType))
def test_codecs_pack_messages_and_unpack_them(kind: compat.CompressionType) -> None:
    messages: list[Any] = [b"one", compat.AMQPMessage(body=b"two"), compat.RawMessage(b"three" * 100)]
    codec = compression.CompressionHelper.compress(messages, kind)
    plain = b"".join(len(bytes(message)).to_bytes(4, "big") + bytes(message) for message in messages)
    assert (codec.messages_count(), codec.uncompressed_size()) == (3, len(plain))
    assert codec.compressed_size() == len(codec.data())
    assert codec.compression_type() == kind.value
    assert compression.CompressionHelper.uncompress(codec.data(), kind, len(plain)) == plain
    with pytest.raises(ValueError):
        codec.uncompress(codec.data(), len(plain) + 1)


def test_a_registered_codec_is_kept_and_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    inside.forget_compat_warnings(monkeypatch)
    codecs = compat.StreamCompressionCodecs
    monkeypatch.setattr(codecs, "available_compress_codecs", dict(codecs.available_compress_codecs))

    class Own(compression.NoneCompressionCodec):
        def compress(self, messages: Sequence[Any]) -> None:
            raise AssertionError

    with pytest.warns(CompatWarning, match="does not call the registered one"):
        codecs.register_codec(compat.CompressionType.Lz4, Own())
    assert isinstance(codecs.get_compression_codec(compat.CompressionType.Lz4), Own)
    codecs.register_codec(compat.CompressionType.Lz4, Own())  # no second warning: it would be an error here


# --- recovery ----------------------------------------------------------------------------------------------


class Entity(IReliableEntity):
    """A stream that is there, and where the first attempts fail."""

    def __init__(self, failures: int, *, exists: bool = True) -> None:
        self.failures = failures
        self.exists = exists
        self.log: list[str] = []

    async def stream_exists(self, stream: str, on_close_event: bool = False) -> bool:
        self.log.append("exists")
        return self.exists

    async def clean_list(self, stream: str) -> None:
        self.log.append("clean")

    async def recover(self) -> None:
        self.failures -= 1
        if self.failures >= 0:
            raise rstream_core.ConnectionFailed("not yet")
        self.log.append("recovered")


def quick(enable: bool = True) -> BackOffRecoveryStrategy:
    strategy = BackOffRecoveryStrategy(enable, jitter=0)
    strategy.backoff_seconds = 0.001
    return strategy


async def test_a_strategy_that_is_called_tries_until_it_succeeds() -> None:
    entity = Entity(failures=2)
    await quick().recover(entity, "s", Exception(), 1, entity.recover)
    assert entity.log == ["exists", "clean"] * 3 + ["recovered"]


@pytest.mark.parametrize(
    ("strategy", "entity", "attempt", "log"),
    [
        (quick(enable=False), Entity(0), 1, []),
        (quick(), Entity(0), 11, []),
        (quick(), Entity(0, exists=False), 1, ["exists"]),
        (quick(), Entity(99), 9, ["exists", "clean"] * 2),
    ],
    ids=["disabled", "no attempts left", "deleted", "never"],
)
async def test_a_strategy_gives_up(
    strategy: BackOffRecoveryStrategy, entity: Entity, attempt: int, log: list[str]
) -> None:
    await strategy.recover(entity, "s", Exception(), attempt, entity.recover)
    assert entity.log == log


def test_a_strategy_as_the_cores_policy() -> None:
    strategy = BackOffRecoveryStrategy()
    policy = strategy.recovery()
    assert policy is not None
    assert policy.seconds == 1 + 2 + 4 + 8 + 16 + 32 + 4 * 50 + 10 * 8
    strategy.disable()
    assert strategy.recovery() is None
    strategy.enable()
    assert strategy.recovery() == policy


# --- the package -------------------------------------------------------------------------------------------


def test_nothing_of_the_core_imports_it() -> None:
    script = (
        "import sys, rstream_core; [getattr(rstream_core, name) for name in rstream_core.__all__]; "
        "print([name for name in sys.modules if 'compat' in name and name.startswith('rstream')])"
    )
    done = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_name_is_documented() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "compat.md").read_text()
    assert compat.__all__ == sorted(compat.__all__)
    assert [name for name in compat.__all__ if f"`{name}`" not in page] == []
    assert [name for name in compat.__all__ if getattr(compat, name).__doc__ is None] == []
