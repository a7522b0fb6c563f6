r"""Shows lags as metrics, in the text format of Prometheus (0.0.4).

The format has three escapes in the value of a label: ``\\``, ``\"`` and ``\n``. All other characters of a name stand
for themselves, and none ends a line. A value that is not known has no sample: a 0 would be a lie, and hold an alert
back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from rstream_cli import terminal
from rstream_cli.lags import Lag, Lags

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = dict[str, str]


class Metric(NamedTuple):
    """A gauge. ``help`` has neither backslashes nor line breaks."""

    name: str
    help: str


UP = Metric("rstream_lag_up", "Whether the stream could be asked (1) or not (0).")
LAST = Metric("rstream_stream_last_offset", "Offset of the last message of the stream.")
MESSAGES = Metric(
    "rstream_consumer_lag_messages", "Messages behind the stored offset of the name, counted by their offsets."
)
SECONDS = Metric("rstream_consumer_lag_seconds", "Age of the first message behind the stored offset; 0 without one.")
STORED = Metric("rstream_consumer_stored_offset", "Offset of the last message done with, as it is stored.")
GONE = Metric(
    "rstream_consumer_gone_messages", "Offsets behind the stored one that retention took before they were read."
)


def exposition(lags: Lags) -> str:
    """All metrics of these lags."""
    up = dict.fromkeys(lags.streams, 1) | {each.stream: 0 for each in lags.unknown}
    blocks = [
        _block(UP, ((_of_stream(lags, stream), value) for stream, value in up.items())),
        _block(LAST, ((_of_stream(lags, stream), last) for stream, last in lags.ends.items())),
        _block(MESSAGES, ((_of_name(lags, lag), lag.messages) for lag in lags.known)),
        _block(SECONDS, ((_of_name(lags, lag), lag.seconds) for lag in lags.known)),
        _block(STORED, ((_of_name(lags, lag), lag.stored) for lag in lags.known)),
        _block(GONE, ((_of_name(lags, lag), lag.gone) for lag in lags.known)),
    ]
    return "".join(blocks)


def failure(reason: str) -> str:
    """What stands in the place of the metrics where nothing could be asked: no sample, as the streams are not known."""
    return f"# {terminal.line(reason)}\n"


def _of_stream(lags: Lags, stream: str) -> Labels:
    labels = {"stream": stream}
    return labels if lags.super_stream is None else {"super_stream": lags.super_stream, **labels}


def _of_name(lags: Lags, lag: Lag) -> Labels:
    return {**_of_stream(lags, lag.stream), "name": lag.name}


def _block(metric: Metric, samples: Iterable[tuple[Labels, float | None]]) -> str:
    """The lines of one metric; none without a sample."""
    lines = list(_lines(metric, samples))
    if not lines:
        return ""
    return f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} gauge\n" + "".join(lines)


def _lines(metric: Metric, samples: Iterable[tuple[Labels, float | None]]) -> Iterator[str]:
    for labels, value in samples:
        if value is not None:
            told = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
            yield f"{metric.name}{{{told}}} {value if isinstance(value, int) else round(value, 3)}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
