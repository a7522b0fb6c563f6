"""RSTREAM_TEST_URI names a broker that tests can connect to, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests import conftest
from tests.brokers import Broker, NoRabbitMQError, broker_at, shared_broker

Hook = Callable[..., object]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Broker:
    monkeypatch.setenv("RSTREAM_TEST_URI", "rabbitmq-stream://guest:guest@192.0.2.1:1")
    with shared_broker("x") as broker:
        return broker


@pytest.mark.parametrize(
    "wants",
    [lambda broker: broker.ctl("status"), Broker.kill, Broker.start],
    ids=["ctl", "kill", "start"],
)
@pytest.mark.parametrize("hook", [conftest.pytest_runtest_setup, conftest.pytest_runtest_call])
@pytest.mark.parametrize(("is_required", "how"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_a_test_that_wants_more_is_skipped(
    given: Broker,
    wants: Callable[[Broker], object],
    hook: Hook,
    is_required: str,
    how: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unless a RabbitMQ of the tests' own is required."""
    monkeypatch.setenv("RSTREAM_REQUIRE_RABBITMQ", is_required)
    with pytest.raises(NoRabbitMQError) as caught:
        wants(given)
    around = hook(None)
    assert hasattr(around, "throw")
    next(around)  # type: ignore[call-overload]
    with pytest.raises(how, match="names a broker that the tests do not run"):
        around.throw(caught.value)


def test_what_else_fails_fails() -> None:
    around = conftest.pytest_runtest_call(None)  # type: ignore[arg-type]
    next(around)
    with pytest.raises(LookupError):
        around.throw(LookupError("a fault"))


def test_one_that_can_only_be_connected_to_has_no_name() -> None:
    assert broker_at("rabbitmq-stream://u:p@h:1").name == ""
