"""The metrics of ``lag``: hostile names, values that are not known, and promtool as the referee where it is there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rstream_cli.lags import Lag, Lags, Unknown
from rstream_cli.render.prometheus import exposition, failure
from rstream_core import StreamNotAvailable

HOSTILE = ['a"b', "a\\b", "a\nb", 'a\\"b', "a\\nb", "a\\\n", '"} 1\nfake{x="', "\r\x1b[2J\u2028\u202e", "ü€😀", "{}=,#"]

_SAMPLE = re.compile(
    r'(?P<name>[a-z_]+)\{(?P<labels>(?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)+)\} (?P<value>[0-9]+(?:\.[0-9]+)?)'
)
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\\n]|\\["\\n])*)"')
_ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


def read(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The samples, by the format's own rules; each metric has its HELP and TYPE before it, once."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    helped: list[str] = []
    typed: list[str] = []
    assert text.endswith("\n")
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("# HELP "):
            helped.append(line.split(" ")[2])
        elif line.startswith("# TYPE "):
            typed.append(line.split(" ")[2])
            assert line.endswith(" gauge")
        else:
            match = _SAMPLE.fullmatch(line)
            assert match, line
            assert match["name"] == helped[-1] == typed[-1]
            labels = tuple(
                (name, re.sub(r"\\.", lambda escape: _ESCAPES[escape[0]], value))
                for name, value in _LABEL.findall(match["labels"])
            )
            assert (match["name"], labels) not in found
            found[match["name"], labels] = float(match["value"])
    assert helped == typed == list(dict.fromkeys(helped))
    return found


def lags(*known: Lag, super_stream: str | None = None, unknown: tuple[Unknown, ...] = ()) -> Lags:
    streams = list(dict.fromkeys([lag.stream for lag in known] + [each.stream for each in unknown]))
    ends = {lag.stream: lag.last for lag in known if lag.last is not None}
    return Lags(super_stream or streams[0], super_stream, streams, 1000.0, known, unknown, ends)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_come_back_as_they_are(name: str) -> None:
    found = read(exposition(lags(Lag(f"s{name}", f"n{name}", 3, 9, 6, 1.5, 0), super_stream=f"x{name}")))
    stream = (("super_stream", f"x{name}"), ("stream", f"s{name}"))
    consumer = (*stream, ("name", f"n{name}"))
    assert found == {
        ("rstream_lag_up", stream): 1,
        ("rstream_stream_last_offset", stream): 9,
        ("rstream_consumer_lag_messages", consumer): 6,
        ("rstream_consumer_lag_seconds", consumer): 1.5,
        ("rstream_consumer_stored_offset", consumer): 3,
        ("rstream_consumer_gone_messages", consumer): 0,
    }


def test_what_is_not_known_has_no_sample() -> None:
    down = Unknown("p-1", StreamNotAvailable("not now"))
    found = read(exposition(lags(Lag("p-0", "n", None, None, 0, None, 0), super_stream="p", unknown=(down,))))
    labels = (("super_stream", "p"), ("stream", "p-0"))
    assert found == {
        ("rstream_lag_up", labels): 1,
        ("rstream_lag_up", (("super_stream", "p"), ("stream", "p-1"))): 0,
        ("rstream_consumer_lag_messages", (*labels, ("name", "n"))): 0,
        ("rstream_consumer_gone_messages", (*labels, ("name", "n"))): 0,
    }


def test_a_stream_without_names_has_an_end() -> None:
    """It is being written, and nobody stores an offset in it."""
    found = read(exposition(Lags("s", None, ["s"], 1000.0, [], [], {"s": 9})))
    labels = (("stream", "s"),)
    assert found == {("rstream_lag_up", labels): 1, ("rstream_stream_last_offset", labels): 9}


def test_the_largest_offsets_are_exact() -> None:
    text = exposition(lags(Lag("s", "n", 2**64 - 1, 2**64 - 1, 0, 0.0, 0)))
    assert f'rstream_consumer_stored_offset{{stream="s",name="n"}} {2**64 - 1}\n' in text


def test_a_failure_is_a_comment_of_one_line() -> None:
    text = failure("no\nanswer\r\x1b[2J # TYPE x counter")
    assert text == r"# no\nanswer\r\x1b[2J # TYPE x counter" + "\n"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, of Debian's package prometheus, is not there")
def test_promtool_takes_it() -> None:
    known = [Lag(f"s{name}", f"n{name}", number, 99, 99 - number, 0.123, 1) for number, name in enumerate(HOSTILE)]
    for text in (
        exposition(lags(*known)),
        exposition(lags(*known, super_stream="x", unknown=(Unknown("y", StreamNotAvailable("not now")),))),
        failure("no answer"),
    ):
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=text.encode(), capture_output=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, of Debian's package prometheus, is not there")
def test_promtool_would_refuse_what_is_wrong() -> None:
    broken = 'rstream_lag_up{stream="a"b"} 1\n'
    done = subprocess.run(["promtool", "check", "metrics"], input=broken.encode(), capture_output=True, check=False)
    assert done.returncode != 0


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, of Debian's package prometheus, is not there")
def test_promtool_takes_the_configuration_and_the_rules_of_the_page(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "lag.md").read_text()
    config, rules = re.findall(r"(?ms)^```yaml\n(.*?)^```$", page)
    for command, text in (("config", config), ("rules", rules)):
        path = tmp_path / f"{command}.yml"
        path.write_text(text)
        done = subprocess.run(["promtool", "check", command, str(path)], capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    named = set(re.findall(r"\brstream_\w+", rules))
    assert named <= set(re.findall(r"rstream_\w+", exposition(lags(Lag("s", "n", 1, 2, 1, 1.0, 1)))))
