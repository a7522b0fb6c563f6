"""When a token expires, when it is renewed, and which tokens the embedded broker takes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstream_core.tokens import MIN_RENEWAL_DELAY, RENEWAL_MARGIN, Token, expiry_of, renewal_delay, verified
from tests.token_program import KEY, encoded, signed


@pytest.mark.parametrize(
    ("claims", "expires"),
    [
        ({"exp": 1_900_000_000}, 1_900_000_000.0),
        ({"exp": 1.5}, 1.5),
        ({"exp": "soon"}, None),
        ({"exp": True}, None),
        ({"exp": None}, None),
        ({"exp": 10**400}, None),
        ({"exp": float("inf")}, None),
        ({}, None),
        ([], None),
        ("text", None),
    ],
)
def test_when_a_token_expires(claims: object, expires: float | None) -> None:
    assert expiry_of(signed(claims)) == expires


@pytest.mark.parametrize(
    "password", ["", "guest", "a.b", "a.b.c", "..", "a.b.c.d", "a.\xff.c", "a.eyJ.c", f"a.{encoded(b'[' * 9000)}.c"]
)
def test_a_password_is_no_token(password: str) -> None:
    assert expiry_of(password) is None


@given(st.text())
def test_any_text_may_be_a_password(text: str) -> None:
    for password in (text, f"a.{text}.c", f"{text}.{text}.{text}"):
        expiry_of(password)
        assert verified(password, KEY, 0.0) is None


@given(st.floats(-1e6, 1e9), st.floats(0, 2e9))
def test_a_token_is_renewed_before_it_expires(left: float, now: float) -> None:
    delay = renewal_delay(now + left, now)
    assert delay >= MIN_RENEWAL_DELAY
    if left > 2 * MIN_RENEWAL_DELAY:
        assert delay < left
        assert left - delay <= RENEWAL_MARGIN + 1e-3


def test_when_tokens_are_renewed() -> None:
    assert renewal_delay(3600, 0) == 3540
    assert renewal_delay(5, 0) == 3
    assert renewal_delay(0, 5) == MIN_RENEWAL_DELAY


def test_a_token_of_the_key_is_taken() -> None:
    assert verified(signed({"sub": "alice", "exp": 100}), KEY, 99.0) == Token("alice", 100.0)


@pytest.mark.parametrize(
    "token",
    [
        signed({"sub": "alice", "exp": 99}),
        signed({"sub": "alice"}),
        signed({"exp": 200}),
        signed({"sub": "", "exp": 200}),
        signed({"sub": 5, "exp": 200}),
        signed({"sub": "alice", "exp": 200}, key=b"another key, which is also long enough"),
        signed({"sub": "alice", "exp": 200}, head={"alg": "none"}),
        signed({"sub": "alice", "exp": 200}, head={"alg": "HS512"}),
        signed({"sub": "alice", "exp": 200}, head={"typ": "JWT"}),
        signed({"sub": "alice", "exp": 200}).rpartition(".")[0] + ".",
        signed({"sub": "alice", "exp": 200}).rpartition(".")[0],
        signed({"sub": "alice", "exp": 200}) + "A",
        signed({"sub": "alice", "exp": 200}) + ".",
        f"{encoded(json.dumps({'alg': 'none'}).encode())}.{encoded(json.dumps({'sub': 'a', 'exp': 200}).encode())}.",
    ],
)
def test_any_other_token_is_not(token: str) -> None:
    assert verified(token, KEY, 99.0) is None
