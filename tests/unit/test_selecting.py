"""``consume --grep``, ``--grep-not`` and ``--match``: which messages are wanted."""

from __future__ import annotations

import re
import uuid
import warnings
from typing import Any

import pytest

from rstream_cli.exit_status import CommandError
from rstream_cli.grepping import Grep, whole_characters
from rstream_cli.options.consuming import ConsumeOptions
from rstream_cli.records.envelope import to_json
from rstream_cli.records.paths import parse_path
from rstream_cli.records.values import UnknownKeyError, Where, check_path, values_at
from rstream_cli.selecting import SELECTS, choosers_of
from rstream_core import AMQPMessage, Properties
from rstream_core.flow.acks import Account, Acks
from rstream_core.flow.block import Block
from rstream_core.flow.stages import Choice, Select
from rstream_core.protocol.amqp_types import Float32, Symbol, Timestamp, ULong

NO_MESSAGE = b"\x00Sp\xff"


def block(messages: list[bytes], begin: int = 0) -> Block:
    return Block(Acks(Account()), range(begin, begin + len(messages)), messages, "s", 1_700_000_000_123)


def wanted(messages: list[bytes], *, raw: bool = False, **options: Any) -> list[int]:
    """The places of those that all of the options want."""
    left: Block | None = block(messages)
    for chooser in choosers_of(ConsumeOptions(**options), raw=raw):
        left = None if left is None else Select(chooser)(left).out
    return [] if left is None else list(left.positions)


def stored(body: Any = b"", **sections: Any) -> bytes:
    return AMQPMessage(body, **sections).encode()


# --- --grep ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"grep": ["error"]}, [0, 2, 4]),
        ({"grep": ["^error"]}, [0, 4]),
        ({"grep": ["(?m)^error"]}, [0, 2, 4]),
        ({"grep": ["error", "disk"]}, [0]),
        ({"grep_not": ["error"]}, [1, 3, 5]),
        ({"grep": ["error"], "grep_not": ["disk"]}, [2, 4]),
        ({"grep_not": ["error", "^$"]}, [1, 3]),
        ({"grep": [""]}, [0, 1, 2, 3, 4, 5]),
        ({"grep": [r"\xff"]}, [3]),
        ({"grep": [r"[0-9]{3}"]}, [4]),
    ],
    ids=str,
)
@pytest.mark.parametrize("raw", [False, True])
def test_a_pattern_is_searched_for_in_the_bytes(options: dict[str, Any], expected: list[int], raw: bool) -> None:
    bodies = [b"error: disk", b"fine", b"first\nerror", b"\xfe\xff", b"error 512", b""]
    messages = bodies if raw else [stored(body) for body in bodies]
    assert wanted(messages, raw=raw, **options) == expected


def test_a_body_that_is_a_value_is_searched_as_it_is_written() -> None:
    messages = [stored(None, value="an error"), stored(None, value=[1, "error"]), stored(None, value=5), stored(b"x")]
    assert wanted(messages, grep=["error"]) == [0, 1]
    assert wanted(messages, grep=[r'^\[1,"error"\]$']) == [1]


@pytest.mark.parametrize("found", [True, False])
def test_what_is_no_message_stays_and_is_told_of(found: bool) -> None:
    chosen = Grep(re.compile(b"error"), found=found).choose(block([stored(b"error"), NO_MESSAGE, stored(b"fine")]))
    assert chosen == Choice([0, 1] if found else [1, 2], [1])


@pytest.mark.parametrize(
    ("pattern", "text", "is_found"),
    [
        ("^ä{2}$", "ää", True),
        ("^ä{2}$", "ä", False),
        ("^aä?b$", "ab", True),
        ("^ä+[0-9]€?$", "ää5", True),
        (r"^\€$", "€", True),
        (r"^\\ä$", r"\ä", True),
        ("^[]x]ä+$", "]ää", True),
        (r"^[\]x]ä+$", "]ää", True),
        ("^[^]x]ä+$", "yää", True),
        ("^[a[]ä+$", "[ää", True),
        ("^[a[^]ä+$", "^ää", True),
        ("^😀+$", "😀😀", True),
    ],
)
def test_a_character_of_several_bytes_is_one(pattern: str, text: str, is_found: bool) -> None:
    assert (wanted([stored(text)], grep=[pattern]) == [0]) is is_found


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("(a", "missing )"),
        ("*", "nothing to repeat"),
        ("[aä]", "'ä' has several bytes"),
        ("[^]ä]", "'ä' has several bytes"),
        ("a{99999999999}", "repetition number"),
    ],
)
@pytest.mark.parametrize("flag", ["--grep", "--grep-not"])
def test_what_is_no_pattern(flag: str, pattern: str, says: str) -> None:
    with pytest.raises(CommandError, match=f"^{flag}: not a regular expression: ") as caught:
        choosers_of(
            ConsumeOptions(grep=[pattern]) if flag == "--grep" else ConsumeOptions(grep_not=[pattern]), raw=False
        )
    assert says in str(caught.value)


def test_a_pattern_that_python_warns_of() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert wanted([stored(b"[")], grep=["[[a]"]) == [0]
    assert not told


def test_a_pattern_of_bytes_is_not_changed() -> None:
    assert whole_characters(rb"\xff[\x80-\xff]+") == rb"\xff[\x80-\xff]+"
    assert whole_characters(b"\xff\xc3+") == b"\xff\xc3+"  # no UTF-8: what a terminal in another locale gives


# --- --match ---------------------------------------------------------------------------------------------------

MESSAGES = [
    stored(b'{"region":"eu","n":5,"list":[{"a":"x"}],"no":null,"d":{"$ulong":1}}', application_properties={"n": 5}),
    stored(b"plain", properties=Properties(subject="order", message_id=7), application_properties={"n": "5"}),
    stored(b"\xff", properties=Properties(subject=""), application_properties={"a=b": "c=d", "t": True, "f": 1.5}),
    stored(None, value={"k": ULong(8)}, message_annotations={Symbol("x-a"): Symbol("sym")}),
]


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        (".headers.n=5", [0, 1]),
        (".properties.subject=order", [1]),
        (".properties.subject=", [2]),
        (".properties.message_id=7", [1]),
        ('.headers."a=b"=c=d', [2]),
        (".headers.t=true", [2]),
        (".headers.f=1.5", [2]),
        (".headers.nothing=", []),
        (".annotations.x-a=sym", [3]),
        (".value.k=8", [3]),
        (".body=plain", [1]),
        (".body=\udcff", [2]),
        (".body.region=eu", [0]),
        (".body.n=5", [0]),
        (".body.list[0].a=x", [0]),
        ('.body.list[0]={"a":"x"}', [0]),
        (".body.no=null", []),
        ('.body.d={"$ulong":1}', [0]),
        (".body_base64=/w==", [2]),
        (".offset=2", [2]),
        (".stream=s", [0, 1, 2, 3]),
        (".timestamp=2023-11-14T22:13:20.123Z", [0, 1, 2, 3]),
        (".headers={}", [3]),
    ],
)
def test_a_value_is_compared_as_text(match: str, expected: list[int]) -> None:
    assert wanted(MESSAGES, match=[match]) == expected


def test_all_of_several_must_hold() -> None:
    assert wanted(MESSAGES, match=[".headers.n=5", ".properties.subject=order"]) == [1]
    assert wanted(MESSAGES, match=[".headers.n=5"], grep=["region"]) == [0]
    assert wanted(MESSAGES, match=[".headers.n=5"], grep_not=["region"]) == [1]


def test_a_raw_message_is_its_body() -> None:
    assert wanted([b'{"a":"b"}', b"\x00Sx", b"{"], raw=True, match=[".body.a=b"]) == [0]
    assert wanted([b"a", b"\x00Sx"], raw=True, match=[".body=a"]) == [0]


def test_a_message_that_cannot_be_read_stays_unless_another_option_leaves_it_out() -> None:
    bad_headers = b"\x00St\xc1\x04\x02\xff\xff\xff" + stored(b"body")  # their size is right, and what is in them no map
    good = stored(b"body", application_properties={"n": 5})
    assert wanted([NO_MESSAGE, bad_headers, good, stored(b"body")], match=[".headers.n=5"]) == [0, 1, 2]
    assert wanted([bad_headers, good], match=[".headers.n=5"], grep=["elsewhere"]) == []


@pytest.mark.parametrize(
    ("match", "says", "hint"),
    [
        (".headers.n", "no value", "write --match .headers.region=eu"),
        ("", "no value", "write --match .headers.region=eu"),
        ("headers.n=5", "not a path", "did you mean .headers.n?"),
        (".a..b=5", "not a path", None),
        (".header.n=5", "the envelope has no .header.n", "It has durable, priority"),
        (".propertis.subject=x", "the envelope has no .propertis", "did you mean .properties?"),
        (".subject=x", "the envelope has no .subject", "did you mean .properties.subject?"),
        (".properties.subjct=x", "the envelope has no .properties.subjct", "did you mean .properties.subject?"),
        (".ofset=5", "the envelope has no .ofset", "did you mean .offset?"),
        (".offset.n=5", "the envelope has no .offset.n", ".offset is a single value"),
        (".=5", "the envelope has no .", "It has stream, offset"),
        (".[0]=5", "the envelope has no .[0]", "It has stream, offset"),
        (".qqq=5", "the envelope has no .qqq", "It has stream, offset"),
    ],
)
def test_what_cannot_be_matched(match: str, says: str, hint: str | None) -> None:
    with pytest.raises(CommandError) as caught:
        choosers_of(ConsumeOptions(match=[match]), raw=False)
    assert str(caught.value).startswith(f"--match: {says}")
    assert (caught.value.hint or "").startswith(hint or "")
    assert bool(caught.value.hint) is bool(hint)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", b"text"),
        (b"\xff\x00", b"\xff\x00"),
        (uuid.UUID(int=5), b"00000000-0000-0000-0000-000000000005"),
        (Timestamp(1500), b"1500"),
        (ULong(2**64 - 1), b"18446744073709551615"),
        (float("inf"), b"inf"),
        (Float32(0.5), b"0.5"),
        (None, None),
        ({"$binary": "no base64"}, b'[["$binary","no base64"]]'),
        ([1, b"\xff"], b'[1,{"$binary":"/w=="}]'),
    ],
    ids=str,
)
def test_a_value_without_its_tag(value: Any, expected: bytes | None) -> None:
    message = AMQPMessage(b"", application_properties={"v": value})
    decoded = AMQPMessage.from_bytes(message.encode())
    assert values_at([parse_path(".headers.v")], Where(decoded, "s", 0, 0)) == [expected]


def test_every_key_of_an_envelope_is_known_and_no_other() -> None:
    import orjson

    everything = AMQPMessage(
        b"\xff",
        properties=Properties(subject="s"),
        application_properties={"a": 1},
        message_annotations={Symbol("b"): 2},
        delivery_annotations={Symbol("c"): 3},
        footer={Symbol("d"): 4},
    )
    for message in (everything, AMQPMessage(value=1), AMQPMessage(sequence=[1])):
        for key in orjson.loads(to_json(message, stream="s", offset=0, timestamp_ms=0)):
            assert check_path((key,)) == (key,)
    for key in ("filter", "failed"):
        with pytest.raises(UnknownKeyError):
            check_path((key,))


def test_the_table_has_the_options_of_each_module() -> None:
    fields = [field for names in SELECTS.values() for field in names.split()]
    assert len(set(fields)) == len(fields)
    assert all(hasattr(ConsumeOptions(), field) for field in fields)
    assert choosers_of(ConsumeOptions(), raw=False) == []
