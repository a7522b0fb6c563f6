"""From records to messages, with what options want to know of each record."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstream_cli.encoding import Encoded, Extras, Looks, json_encoder, plain_encoder
from rstream_cli.records.paths import parse_path
from rstream_core.protocol.amqp import AMQPMessage, bodies_of, encode_bodies
from rstream_core.protocol.amqp_sections import PlainMessages

ALL = 1_000_000


def plain(looks: Looks, records: list[bytes], **settings: Any) -> Encoded:
    encoder = plain_encoder(settings.pop("extras", Extras()), looks, raw=False, skip_empty=settings.pop("skip", False))
    return encoder(records, 1, settings.pop("room", ALL), settings.pop("stop", True))


def test_nothing_is_looked_at_where_nobody_asks() -> None:
    found = plain(Looks(), [b"a", b""])
    assert isinstance(found.messages, PlainMessages)
    assert found._replace(messages=list(found.messages)) == Encoded(encode_bodies([b"a", b""]))
    constant = plain(Looks(filter_value="f", key=b"k"), [b"a", b""])
    assert constant._replace(messages=list(constant.messages)) == Encoded(
        encode_bodies([b"a", b""]), filters=["f", "f"], keys=[b"k", b"k"]
    )
    assert plain(Looks(key=b"k"), [b"", b"a"], skip=True).numbers == [2]


@pytest.mark.parametrize("seed", range(10))
def test_looking_at_each_record_changes_no_message(seed: int) -> None:
    """The slow way and the fast way agree, whatever is skipped and however few there is room for."""
    chance = random.Random(seed)
    records = [b"k\t" + chance.choice([b"", b"a", chance.randbytes(300)]) for _ in range(200)]
    room = chance.choice([0, 10, ALL])
    slow = plain(Looks(key_delimiter=b"\t", filter_value="f"), records, room=room)
    fast = plain(Looks(), [record[2:] for record in records], room=room)
    assert list(slow.messages) == list(fast.messages)
    assert slow.keys == (b"k",) * len(slow.messages)
    assert slow.numbers == list(range(1, len(slow.messages) + 1))


@given(
    st.lists(st.text("a::b", max_size=9).map(str.encode) | st.binary(max_size=300), max_size=30),
    st.sampled_from([b":", b"::", b"a"]),
    st.booleans(),
    st.integers(1, 40),
    st.booleans(),
    st.booleans(),
)
def test_keys_are_the_same_whether_records_are_looked_at_singly_or_not(
    records: list[bytes], delimiter: bytes, are_all_keyed: bool, room: int, stop: bool, skip: bool
) -> None:
    if are_all_keyed:
        records = [record + delimiter for record in records]
    settings: dict[str, Any] = {"room": room, "stop": stop, "skip": skip}
    fast = plain(Looks(key_delimiter=delimiter), records, **settings)
    slow = plain(Looks(key_delimiter=delimiter, filter_value="f"), records, **settings)
    assert list(fast.messages) == list(slow.messages)
    assert fast.numbers is not None
    assert slow.numbers is not None
    assert list(fast.numbers) == list(slow.numbers)
    assert (fast.keys, list(fast.bad), fast.ids, fast.filters) == (slow.keys, list(slow.bad), None, None)


def test_all_at_once() -> None:
    looks = Looks(
        id_from=parse_path(".id"), filter_from=parse_path(".f"), key_from=parse_path(".k[0]"), key_delimiter=None
    )
    records = [b'{"id":1,"f":"x","k":["a"]}', b'{"id":9,"f":null,"k":[7]}']
    found = plain(looks, records)
    assert (found.ids, found.filters, found.keys) == ((1, 9), ("x", None), (b"a", b"7"))
    assert bodies_of(found.messages) == records


def test_ids_grow_over_all_calls_and_a_bad_record_uses_none_up() -> None:
    encoder = plain_encoder(
        Extras(), Looks(id_from=parse_path(".id"), filter_from=parse_path(".f")), raw=False, skip_empty=False
    )
    assert encoder([b'{"id":5,"f":"a"}'], 1, ALL, False).ids == (5,)
    found = encoder([b'{"id":7}', b'{"id":5,"f":""}', b'{"id":6,"f":""}'], 2, ALL, False)
    assert (found.ids, found.numbers, [number for number, _ in found.bad]) == ((6,), [4], [2, 3])
    assert encoder([b'{"id":6,"f":""}'], 5, ALL, True).bad == [
        (5, "the publishing id 6 is not higher than 6, the one before")
    ]


def test_it_stops_at_the_first_bad_record() -> None:
    found = plain(Looks(key_delimiter=b"::"), [b"a::1", b"b:2", b"c::3"])
    assert (bodies_of(found.messages), found.keys) == ([b"1"], (b"a",))
    assert found.bad == [(2, "no routing key: the record does not contain '::'")]
    assert len(plain(Looks(key_delimiter=b"::"), [b"a::1", b"b:2", b"c::3"], stop=False).messages) == 2


@pytest.mark.parametrize(
    ("record", "key", "body"), [(b"k\t", b"k", b""), (b"\tv", b"", b"v"), (b"k\tv\tw", b"k", b"v\tw")]
)
def test_keys_and_what_is_behind_them(record: bytes, key: bytes, body: bytes) -> None:
    found = plain(Looks(key_delimiter=b"\t"), [record])
    assert (found.keys, bodies_of(found.messages)) == ((key,), [body])


def test_a_key_is_taken_off_before_the_json_is_read() -> None:
    found = plain(Looks(key_delimiter=b"|", filter_from=parse_path(".f")), [b'k|{"f":"x"}'])
    assert (found.keys, found.filters) == ((b"k",), ("x",))


def test_options_replace_the_values_of_an_envelope_name_by_name() -> None:
    extras = Extras({"a": "new", "b": 1}, {"subject": "new"}, {"x-a": "new"})
    encode = json_encoder(extras, Looks(), raw=False)
    full = {
        "body": "x",
        "headers": {"a": "old", "c": "kept"},
        "properties": {"subject": "old", "to": "kept"},
        "annotations": {"x-a": "old", "x-c": "kept"},
    }
    found = [
        AMQPMessage.from_bytes(content)
        for content in encode([orjson.dumps(full), b'{"body":"x"}'], 1, ALL, True).messages
    ]
    assert [message.application_properties for message in found] == [
        {"a": "new", "b": 1, "c": "kept"},
        {"a": "new", "b": 1},
    ]
    assert [(message.properties.subject, message.properties.to) for message in found if message.properties] == [
        ("new", "kept"),
        ("new", None),
    ]
    assert [message.message_annotations for message in found] == [{"x-a": "new", "x-c": "kept"}, {"x-a": "new"}]


def test_envelopes() -> None:
    lines = [orjson.dumps({"body": "a", "filter": "f", "headers": {"n": {"$uint": 3}}}), b" ", b'{"body":"b"}']
    found = json_encoder(Extras(), Looks(), raw=True)(lines, 1, ALL, True)
    assert found.bad == [(1, 'with --codec raw a record has a "body" or a "body_base64" and nothing else')]
    found = json_encoder(Extras(), Looks(key=b"k"), raw=False)(lines, 1, ALL, True)
    assert (found.numbers, found.filters, found.keys) == ([1, 3], ("f", None), (b"k", b"k"))
    assert json_encoder(Extras(), Looks(), raw=False)([lines[2]], 1, ALL, True).filters is None
    path = parse_path(".headers.n")
    found = json_encoder(Extras(), Looks(id_from=path, filter_from=path), raw=False)(lines[:1], 1, ALL, True)
    assert (found.ids, found.filters) == ((3,), ("3",))
