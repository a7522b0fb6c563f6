"""The numbers behind the displays."""

from __future__ import annotations

import threading

import pytest

from rstream_cli.render.stats import ConsumeCounts, LatencyHistogram, Meter, Progress, PublishCounts, Stats


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_quantiles_of_nothing() -> None:
    assert LatencyHistogram().quantile(0.5) is None


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e-6, 0.00123, 0.5, 7.0, 3600.0, 1e9])
def test_a_quantile_is_close(seconds: float) -> None:
    histogram = LatencyHistogram()
    histogram.add(seconds, 10)
    for share in (0.0, 0.5, 0.99, 1.0):
        found = histogram.quantile(share)
        assert found is not None
        assert found <= seconds
        if 1e-6 <= seconds <= 1e6:
            assert found == pytest.approx(seconds, rel=0.1)


def test_quantiles_tell_the_slow_from_the_quick() -> None:
    histogram = LatencyHistogram()
    histogram.add(0.001, 980)
    histogram.add(0.1, 19)
    histogram.add(5.0, 1)
    assert histogram.total == 1000
    assert histogram.quantile(0.5) == pytest.approx(0.001, rel=0.1)
    assert histogram.quantile(0.99) == pytest.approx(0.1, rel=0.1)
    assert histogram.quantile(1.0) == pytest.approx(5.0, rel=0.1)


def test_a_rate_is_that_of_the_window() -> None:
    meter = Meter(window=3.0)
    assert meter.sample(0.0, 0) == 0.0
    for second in range(1, 11):
        meter.sample(float(second), 100 * second)
    assert meter.rate == 100.0
    for second in range(11, 15):
        meter.sample(float(second), 1000)
    assert meter.rate == 0.0
    assert list(meter.history) == [100.0] * 10 + [0.0] * 4


def test_two_samples_of_one_moment() -> None:
    meter = Meter()
    meter.sample(1.0, 0)
    meter.sample(2.0, 10)
    assert meter.sample(2.0, 20) == 10.0
    assert meter.sample(1.5, 20) == 10.0


def test_the_history_is_bounded() -> None:
    meter = Meter(history=5)
    for second in range(100):
        meter.sample(float(second), second)
    assert len(meter.history) == 5


@pytest.mark.parametrize(("done", "total", "share"), [(0, 10, 0.0), (5, 10, 0.5), (11, 10, 1.0), (0, 0, 1.0)])
def test_progress(done: int, total: int, share: float) -> None:
    assert Progress(done, total).share == share


def test_a_snapshot() -> None:
    clock = Clock()
    stats = Stats("publish", "s", PublishCounts(), total=1000, clock=clock)
    clock.now += 2
    stats.counts = PublishCounts(read=200, published=200, confirmed=150, in_flight=50)
    stats.bytes = stats.done = 500
    stats.latency.add(0.01, 150)
    shown = stats.snapshot()
    assert (shown.elapsed, shown.rate, shown.byte_rate) == (2.0, 75.0, 250.0)
    assert shown.progress is not None
    assert shown.progress.share == 0.375  # what is in flight is not there yet
    assert shown.eta == pytest.approx(625 / 375 * 2)
    assert shown.counts["in_flight"] == 50
    clock.now += 6
    final = stats.snapshot(final=True)
    assert (final.elapsed, final.rate, final.byte_rate) == (8.0, 150 / 8, 500 / 8)


def test_what_is_read_ahead_is_neither_sent_nor_done() -> None:
    clock = Clock()
    stats = Stats("publish", "s", PublishCounts(), total=1000, clock=clock)
    clock.now += 1
    stats.counts = PublishCounts(read=100, published=10, confirmed=5, in_flight=5)
    stats.bytes, stats.done = 900, 1000
    shown = stats.snapshot()
    assert (shown.bytes, shown.byte_rate) == (90, 90.0)
    assert shown.progress is not None
    assert shown.progress.share == 0.05
    clock.now += 1
    stats.counts = PublishCounts(read=100, published=10, confirmed=5, failed=5, not_published=90)
    stats.bytes = 90  # what is left over was taken off
    shown = stats.snapshot()
    assert shown.bytes == 90
    assert shown.byte_rate >= 0
    assert stats.snapshot(final=True).bytes == 90


def test_how_long_nothing_is_confirmed() -> None:
    clock = Clock()
    counts = PublishCounts()
    stats = Stats("publish", "s", counts, clock=clock)

    def after(seconds: float, confirmed: int, in_flight: int) -> float:
        clock.now += seconds
        counts.confirmed, counts.in_flight = confirmed, in_flight
        return stats.snapshot().unconfirmed

    assert after(60, 0, 0) == 0.0  # the input has its time
    assert after(1, 0, 5) == 1.0
    assert after(2, 0, 9) == 3.0
    assert after(1, 1, 8) == 0.0
    assert after(5, 1, 8) == 5.0
    assert after(1, 1, 0) == 0.0  # failed, or confirmed and counted later
    assert Stats("consume", "s", ConsumeCounts(), clock=clock).snapshot().unconfirmed == 0.0


def test_a_snapshot_of_a_run_that_took_no_time() -> None:
    stats = Stats("consume", "s", ConsumeCounts(), clock=Clock())
    shown = stats.snapshot(final=True)
    assert (shown.rate, shown.elapsed, shown.progress, shown.eta) == (0.0, 0.0, None, None)


def test_numbers_are_brought_up_to_date_for_a_snapshot() -> None:
    counts = ConsumeCounts()
    stats = Stats("consume", "s", counts, clock=Clock())

    def count() -> None:
        counts.consumed += 1

    stats.bring_up_to_date = count
    assert [stats.snapshot().counts["consumed"], stats.snapshot(final=True).messages] == [1, 2]


def test_of_two_threads_that_bring_numbers_up_to_date_the_later_one_writes_no_older_numbers() -> None:
    counts, reads, goes_on = ConsumeCounts(), threading.Event(), threading.Event()
    stats = Stats("consume", "s", counts, clock=Clock())
    now = 1

    def count() -> None:
        found = now
        reads.set()
        goes_on.wait(10)
        counts.consumed = found

    stats.bring_up_to_date = count
    display = threading.Thread(target=stats.snapshot)
    display.start()
    assert reads.wait(10)
    now = 2
    threading.Timer(0.05, goes_on.set).start()
    stats.update()
    assert counts.consumed == 2
    display.join()
