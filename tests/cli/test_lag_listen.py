"""``rstream lag --listen``: scrapes that share a refresh, failures, web pages that ask, and signals."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import re
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import pytest

from rstream_cli import lag_exporter
from rstream_cli.lag_exporter import LagExporter
from rstream_cli.lag_survey import LagSurvey
from rstream_cli.lags import Lag, Lags
from rstream_cli.management import http_client
from rstream_cli.management.address import ManagementAddress
from rstream_cli.management.api import open_api
from rstream_cli.management.errors import ManagementUnavailable
from rstream_cli.render import prometheus
from rstream_core import Client, ConnectionFailed, ConnectionOptions, EmbeddedBroker, Endpoint
from rstream_core.http_server import Answer, Request
from tests.cli.conftest import as_lines, run_here, run_rstream
from tests.cli.process import ended, eventually, interrupt, running
from tests.clients import PATIENCE, with_two_addresses
from tests.web import Visit, serving

METRICS = Request("/metrics", {}, True)
METRICS_FROM_ELSEWHERE = Request("/metrics", {}, False)


def lags(number: int = 6) -> Lags:
    return Lags("s", None, ["s"], 1000.0, [Lag("s", "n", 3, 9, number, 1.5, 0)], [])


class Refresh:
    """A refresh that goes on until it is let go, and counts."""

    def __init__(self) -> None:
        self.begun = self.at_once = self.most = 0
        self.may_end = asyncio.Event()
        self.outcome: Callable[[int], Lags] = lags

    async def __call__(self) -> Lags:
        self.begun += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await self.may_end.wait()
            return self.outcome(self.begun)
        finally:
            self.at_once -= 1


async def scrape(exporter: LagExporter, request: Request = METRICS) -> Answer:
    answer = exporter.respond(request)
    assert not isinstance(answer, Answer)
    return await answer


def messages(answer: Answer) -> int:
    assert answer.status is HTTPStatus.OK
    found = re.search(rb'^rstream_consumer_lag_messages\{stream="s",name="n"\} (\d+)$', answer.body, re.MULTILINE)
    assert found
    return int(found[1])


async def test_scrapes_share_a_refresh_and_its_answer_for_the_interval() -> None:
    refresh = Refresh()
    exporter = LagExporter(refresh, 0.2)
    scrapes = [asyncio.create_task(scrape(exporter)) for _ in range(20)]
    await asyncio.sleep(0.02)
    scrapes[0].cancel()  # a client that leaves takes nothing from the others
    refresh.may_end.set()
    assert {messages(await each) for each in scrapes[1:]} == {1}
    assert messages(await scrape(exporter)) == 1
    await asyncio.sleep(0.25)
    assert {messages(each) for each in await asyncio.gather(*(scrape(exporter) for _ in range(20)))} == {2}
    assert (refresh.begun, refresh.most) == (2, 1)
    await exporter.close()


async def test_a_failure_is_told_once_and_shared_too() -> None:
    told: list[str] = []
    refresh = Refresh()
    refresh.may_end.set()
    exporter = LagExporter(refresh, 0.05, told.append)

    def fail(number: int) -> Lags:
        raise ConnectionFailed("localhost:5552 refuses the connection")

    for outcome, status in ((lags, 200), (fail, 503), (fail, 503), (lags, 200)):
        refresh.outcome = outcome
        begun = refresh.begun
        for _ in range(3):
            answer = await scrape(exporter)
            assert answer.status == status
            if status == 503:
                assert answer.body == b"# localhost:5552 refuses the connection\n"
        assert refresh.begun == begun + 1
        await asyncio.sleep(0.06)
    assert told == ["not refreshed: localhost:5552 refuses the connection", "refreshed again"]
    await exporter.close()


async def test_only_this_machine_is_told_why() -> None:
    refresh = Refresh()
    refresh.may_end.set()

    def fail(number: int) -> Lags:
        raise ConnectionFailed("rabbit-1.internal:5552 refuses the connection")

    refresh.outcome = fail
    exporter = LagExporter(refresh, 10.0)
    assert b"rabbit-1.internal" in (await scrape(exporter)).body
    answer = await scrape(exporter, METRICS_FROM_ELSEWHERE)
    assert answer.status == 503
    assert answer.body.startswith(b"# nothing could be asked; ")
    assert b"rabbit-1" not in answer.body
    assert answer.body.count(b"\n") == 1
    await exporter.close()


async def test_a_fault_of_the_program_is_a_reason_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    refresh = Refresh()
    refresh.may_end.set()
    exporter = LagExporter(refresh, 0.0, told.append)

    def fault(number: int) -> Lags:
        raise ZeroDivisionError("a fault")

    for outcome, status in ((fault, 503), (fault, 503), (lags, 200), (fault, 503), (fault, 503)):
        refresh.outcome = outcome
        answer = await scrape(exporter)
        assert answer.status == status
        if status == 503:
            assert answer.body == b"# ZeroDivisionError: a fault\n"
    assert [record.getMessage() for record in caplog.records] == ["asking for lags"] * 2
    assert told == ["not refreshed: ZeroDivisionError: a fault", "refreshed again", *told[:1]]
    await exporter.close()


async def test_metrics_are_made_once_for_all_scrapes_of_a_refresh(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Lags] = []
    exposition = prometheus.exposition

    def count(found: Lags) -> str:
        made.append(found)
        return exposition(found)

    monkeypatch.setattr(prometheus, "exposition", count)
    refresh = Refresh()
    refresh.may_end.set()
    exporter = LagExporter(refresh, 10.0)
    assert {messages(await scrape(exporter)) for _ in range(5)} == {1}
    assert len(made) == 1
    await exporter.close()


@pytest.mark.parametrize("target", ["//[", "/[", "//[::1", "/metrics[", "//metrics"])
async def test_a_target_that_is_no_path_of_ours(target: str) -> None:
    exporter = LagExporter(Refresh(), 1.0)
    answer = exporter.respond(Request(target, {}, True))
    assert isinstance(answer, Answer)
    assert answer.status == 404


async def test_a_scrape_waits_no_longer_than_prometheus_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refresh goes on, and the next scrape gets its answer."""
    assert lag_exporter.SCRAPE_TIMEOUT < 10
    monkeypatch.setattr(lag_exporter, "SCRAPE_TIMEOUT", 0.05)
    refresh = Refresh()
    exporter = LagExporter(refresh, 10.0)
    for _ in range(2):
        answer = await scrape(exporter)
        assert answer.status == 503
        assert answer.body == b"# no answer within 0.05 s\n"
    refresh.may_end.set()
    assert messages(await scrape(exporter)) == 1
    assert refresh.begun == 1
    await exporter.close()


async def test_a_refresh_that_hangs_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lag_exporter, "REFRESH_TIMEOUT", 0.05)
    refresh = Refresh()
    exporter = LagExporter(refresh, 0.0)
    answer = await scrape(exporter)
    assert (answer.status, refresh.at_once) == (503, 0)
    assert answer.body == b"# no answer within 0.05 s\n"
    await exporter.close()


async def test_closing_ends_a_refresh() -> None:
    refresh = Refresh()
    exporter = LagExporter(refresh, 1.0)
    waiting = asyncio.create_task(scrape(exporter))
    await asyncio.sleep(0.02)
    await exporter.close()
    assert refresh.at_once == 0
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_management_api_that_hangs_is_asked_no_more_for_each_partition() -> None:
    """A scrape, and a plain ``lag``, fail after one time limit, and not after one for each few partitions."""
    async with (
        EmbeddedBroker() as broker,
        serving(Visit.gone) as web,
        Client(ConnectionOptions(endpoints=(Endpoint(broker.host, broker.port),))) as client,
    ):
        await client.create_super_stream("orders", partitions=20)
        address = ManagementAddress("localhost", web.port, tls=False)
        with open_api(ConnectionOptions(request_timeout=0.2), address, ssl.create_default_context) as api:
            survey = LagSurvey(client, "orders", [], api, time.time)
            with pytest.raises(ManagementUnavailable, match="has not answered in time"):
                await survey.refresh()
        assert len(web.visits) <= 2 * http_client.MAX_CONNECTIONS  # and those that had a free place at once


async def test_a_name_with_several_addresses_has_one_port_at_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is printed leads to the metrics at each."""
    with_two_addresses(monkeypatch)
    printed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(lag_exporter.serve(LagExporter(Refresh(), 1.0), "localhost", 0, printed.set_result))
    try:
        async with asyncio.timeout(PATIENCE):
            found = re.fullmatch(r"http://localhost:(\d+)/metrics", await printed)
            assert found
            for address in ("127.0.0.1", "127.0.0.2"):
                reader, writer = await asyncio.open_connection(address, int(found[1]))
                writer.write(b"GET / HTTP/1.0\r\n\r\n")
                assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
                writer.close()
    finally:
        serving.cancel()
        await asyncio.wait({serving})


# The program.

HOSTILE = 'bil"l\\\x1b[2J\n'


@pytest.fixture(scope="module")
def env() -> Iterator[dict[str, str]]:
    """A super stream ``orders`` of two partitions; ``HOSTILE`` has an offset in the first."""
    with EmbeddedBroker(management_port=0) as broker:
        env = {"RSTREAM_URI": broker.uri, "RSTREAM_MANAGEMENT_URI": str(broker.management_uri)}
        assert run_rstream("superstream", "create", "orders", "--partitions", "2", env=env).returncode == 0
        for number in range(2):
            assert run_rstream("publish", f"orders-{number}", stdin=b"x\n" * 10, env=env).returncode == 0
        assert run_rstream("offset", "store", "orders-0", "3", "--name", HOSTILE, env=env).returncode == 0
        yield env


class Scraped:
    """A running exporter."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        assert process.stdout is not None
        self.address = process.stdout.readline().decode().strip()
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/metrics", self.address)
        assert found, self.address
        self.port = int(found[1])

    def ask(self, path: str = "/metrics", *, verb: str = "GET", **fields: str) -> tuple[int, str, dict[str, str]]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request(verb, path, headers=fields)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), {name.lower(): text for name, text in answer.getheaders()}


@contextlib.contextmanager
def listening(env: dict[str, str], *words: str) -> Iterator[Scraped]:
    with running("lag", *words, "--listen", "0", env=env) as process:
        yield Scraped(process)


def value(text: str, name: str, labels: str) -> float:
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name}{{{labels}}} ")]
    return float(line.rpartition(" ")[2])


def test_what_a_scrape_gets(env: dict[str, str]) -> None:
    name = r"bil\"l\\" + "\x1b[2J" + r"\n"
    with listening(env, "orders", "--interval", "10ms") as scraped:
        status, text, fields = scraped.ask()
        assert status == 200
        assert fields["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        of_first = f'super_stream="orders",stream="orders-0",name="{name}"'
        assert value(text, "rstream_consumer_lag_messages", of_first) == 6
        assert value(text, "rstream_lag_up", 'super_stream="orders",stream="orders-1"') == 1
        assert run_rstream("publish", "orders-0", stdin=b"x\n" * 4, env=env).returncode == 0
        first = value(text, "rstream_stream_last_offset", 'super_stream="orders",stream="orders-0"')
        _, text, _ = scraped.ask()
        assert value(text, "rstream_stream_last_offset", 'super_stream="orders",stream="orders-0"') >= first + 4
        interrupt(scraped.process)
        assert ended(scraped.process) == (130, "")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, of Debian's package prometheus, is not there")
def test_promtool_takes_a_scrape(env: dict[str, str]) -> None:
    with listening(env, "orders") as scraped:
        _, text, _ = scraped.ask()
        interrupt(scraped.process)
        assert ended(scraped.process) == (130, "")
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text.encode(), capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_other_requests(env: dict[str, str]) -> None:
    with listening(env, "orders", "--name", HOSTILE) as scraped:
        status, text, fields = scraped.ask("/")
        assert (status, fields["content-type"]) == (200, "text/html; charset=utf-8")
        assert '<a href="/metrics">' in text
        assert scraped.ask("/metrics?x=y")[0] == 200
        status, text, fields = scraped.ask(verb="HEAD")
        assert (status, text) == (200, "")
        assert int(fields["content-length"]) > 0
        for path in ("/metric", "/metrics/", "//metrics", "/api/nodes", "//["):
            assert scraped.ask(path)[:2] == (404, "404 Not Found\n")
        for verb in ("POST", "PUT", "DELETE", "OPTIONS"):
            status, text, fields = scraped.ask(verb=verb)
            assert (status, text, fields["allow"]) == (405, "405 Method Not Allowed\n", "GET, HEAD")
        # A web page that has let its own name resolve to this machine, and one that asks across origins.
        for headers in ({"Host": "evil.example"}, {"Host": f"evil.example:{scraped.port}"}, {"Origin": "http://x"}):
            assert scraped.ask(**headers)[:2] == (403, "403 Forbidden\n")
        for host in ("localhost", f"127.0.0.1:{scraped.port}", "[::1]:1"):
            assert scraped.ask(Host=host)[0] == 200


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_also_with_connections(env: dict[str, str], number: signal.Signals, status: int) -> None:
    with (
        listening(env, "orders") as scraped,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", scraped.port, timeout=20)) as kept,
    ):
        kept.request("GET", "/metrics")
        assert kept.getresponse().read()
        interrupt(scraped.process, number)
        assert ended(scraped.process) == (status, "")


def test_a_broker_that_is_gone_for_a_while(tmp_path: Any) -> None:
    """Scrapes fail with the reason, and succeed again when it is back."""
    broker = EmbeddedBroker(data=tmp_path)
    with broker:
        port = broker.port
        env = {"RSTREAM_URI": broker.uri}
        assert run_rstream("publish", "s", "--create", "-m", "x", env=env).returncode == 0
        assert run_rstream("offset", "store", "s", "0", "--name", "n", env=env).returncode == 0
        process = running("lag", "s", "--name", "n", "--listen", "0", "--interval", "10ms", env=env)
        scraped = Scraped(process.__enter__())
        assert scraped.ask()[0] == 200
    try:
        status, text, fields = eventually(lambda: found if (found := scraped.ask())[0] != 200 else None, within=30)
        assert (status, fields["content-type"]) == (503, "text/plain; version=0.0.4; charset=utf-8")
        assert text.startswith("# ")
        assert text.count("\n") == 1
        with EmbeddedBroker(data=tmp_path, port=port):
            _, text, _ = eventually(lambda: found if (found := scraped.ask())[0] == 200 else None, within=30)
            assert value(text, "rstream_consumer_lag_messages", 'stream="s",name="n"') == 0
            interrupt(scraped.process)
            status, errors = ended(scraped.process)
        assert status == 130
        assert errors.startswith("warning: not refreshed: ")
        assert errors.endswith("warning: refreshed again\n")
    finally:
        process.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("words", "status", "error"),
    [
        (("--listen", "0", "--watch"), 2, "--listen and --watch contradict each other"),
        (("--listen", "0", "--fail-over", "5"), 2, "--listen and --fail-over contradict each other"),
        (("--listen", "0", "--output", "table"), 2, "--listen and --output table contradict each other"),
        (("--listen", "0", "--json"), 2, "--listen and --json contradict each other"),
        (("--listen", "x"), 2, "--listen: not an address: 'x'; give PORT or HOST:PORT"),
        (("--listen", "65536"), 2, "--listen: not an address: '65536'"),
        (("--listen", "a b:1"), 2, "--listen: cannot listen on 'a b': "),
        (("--listen", "::1:1"), 2, "--listen: not an address: '::1:1'"),
        (("--listen", "no.such.host.invalid:0"), 2, "--listen: cannot listen on 'no.such.host.invalid': "),
        ((f"--listen={'a' * 70}:0",), 2, f"--listen: cannot listen on '{'a' * 70}': it is not a host name"),
        (("--listen", "0", "--name", "nobody"), 4, "no offset is stored as 'nobody' in any partition of super stream"),
    ],
)
def test_what_is_refused(env: dict[str, str], words: tuple[str, ...], status: int, error: str) -> None:
    done = run_here("lag", "orders", *words, env=env)
    assert (done.status, done.output) == (status, "")
    assert as_lines(done.errors.encode()).startswith(f"error: {error}")


def test_a_stream_that_nobody_reads_has_an_end() -> None:
    with EmbeddedBroker(management_port=0) as broker:
        env = {"RSTREAM_URI": broker.uri, "RSTREAM_MANAGEMENT_URI": str(broker.management_uri)}
        assert run_rstream("publish", "s", "--create", stdin=b"x\n" * 10, env=env).returncode == 0
        done = run_rstream("lag", "s", "--output", "prometheus", env=env)
    assert done.returncode == 0
    assert value(done.stdout.decode(), "rstream_stream_last_offset", 'stream="s"') == 9


def test_a_port_that_is_taken(env: dict[str, str]) -> None:
    with listening(env, "orders") as scraped:
        done = run_here("lag", "orders", "--listen", f"127.0.0.1:{scraped.port}", env=env)
    assert done.status == 2
    assert done.errors == f"error: --listen: cannot listen on 127.0.0.1:{scraped.port}: Address already in use\n"
