"""A hundred typical mistakes: each names the fault, says what to do, and ends in the right code.

In a command line, {port} is the broker's port, {closed} one that nobody listens on, {folder} an empty folder. The
broker has a stream ``s`` with one message, and a super stream ``p`` of two partitions.
"""

from __future__ import annotations

import shlex
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from rstream_core import EmbeddedBroker, Endpoint, Hint
from rstream_core.connecting.transport import connection_error, port_hint
from tests.cli.conftest import run_here
from tests.clients import closed_port

USAGE, NOT_FOUND, ACCESS, CONNECTION, BAD, PRECONDITION = 2, 4, 5, 6, 8, 9

HELP = "see `rstream {} --help`"
LISTS = "`rstream {} --help` lists them"
SCHEME = "--uri: a URI begins with rabbitmq-stream:// or rabbitmq-stream+tls://"
MISSING = "check the name and the virtual host; `rstream stream create` and `rstream superstream create` create one"
PROPERTIES = (
    "AMQP has message_id, user_id, to, subject, reply_to, correlation_id, content_type, content_encoding,"
    " absolute_expiry_time, creation_time, group_id, group_sequence, reply_to_group_id; --header takes any name"
)
OFFSETS = "a date or time (2026-11-23T10:00Z), @UNIX seconds"
VHOST = (
    "`rabbitmqctl list_vhosts` and `list_user_permissions` show what exists and who may use it; choose one with"
    " --vhost, or with the path of the URI"
)
RUNNING = "is the broker running there, with its stream plugin? the stream port is 5552 by default"
WITH_TLS = "does the broker listen there with TLS? by default, the port is 5551 with TLS, and 5552 without"
TLS_PORT = (
    "the TLS port is 5551 by default; for a port without TLS, such as 5552, leave out --tls, or use rabbitmq-stream://"
)
GROUPS = "write options after a command: `rstream --help` lists the commands"

Row = tuple[str, int, str, str | None]

COMMANDS: tuple[Row, ...] = (
    # Commands that do not exist.
    ("list", USAGE, "no such command: 'list'", "did you mean `rstream stream list` or `rstream offset list`?"),
    ("ls", USAGE, "no such command: 'ls'", "did you mean `rstream stream list` or `rstream offset list`?"),
    ("stream ls", USAGE, "no such command: 'ls'", "did you mean `rstream stream list`?"),
    (
        "superstream list",
        USAGE,
        "no such command: 'list'",
        "did you mean `rstream stream list` or `rstream offset list`?",
    ),
    ("strem", USAGE, "no such command: 'strem'", "did you mean `rstream stream`?"),
    ("pubish s", USAGE, "no such command: 'pubish'", "did you mean `rstream publish`?"),
    ("produce s", USAGE, "no such command: 'produce'", "did you mean `rstream publish`?"),
    ("subscribe s", USAGE, "no such command: 'subscribe'", "did you mean `rstream consume`?"),
    (
        "create s",
        USAGE,
        "no such command: 'create'",
        "did you mean `rstream stream create` or `rstream superstream create`?",
    ),
    (
        "info s",
        USAGE,
        "no such command: 'info'",
        "did you mean `rstream stream info` or `rstream superstream info` or `rstream dump info`?",
    ),
    (
        "rm s",
        USAGE,
        "no such command: 'rm'",
        "did you mean `rstream stream delete` or `rstream superstream delete`?",
    ),
    ("stream rm s", USAGE, "no such command: 'rm'", "did you mean `rstream stream delete`?"),
    (
        "stream publish s",
        USAGE,
        "no such command: 'publish'",
        "did you mean `rstream publish` or `rstream superstream publish`?",
    ),
    ("offset get s", USAGE, "no such command: 'get'", "did you mean `rstream offset query`?"),
    ("route p k", USAGE, "no such command: 'route'", "did you mean `rstream superstream route`?"),
    (
        "help consume",
        USAGE,
        "no such command: 'help'",
        "`rstream --help` lists all commands, and each command has --help",
    ),
    ("zzz", USAGE, "no such command: 'zzz'", "`rstream --help` lists them"),
    (
        "rabbitmq-stream://guest:secret@localhost",
        USAGE,
        "no such command: 'rabbitmq-stream://guest:***@localhost'",
        "pass the address of a broker with --uri, after the command",
    ),
    # Options in the wrong place.
    (
        "-v stream info s",
        USAGE,
        "-v is before the command",
        "write options after the command: `rstream stream info s -v`",
    ),
    (
        "--uri rabbitmq-stream://localhost stream info s",
        USAGE,
        "--uri is before the command",
        "write options after the command: `rstream stream info s --uri rabbitmq-stream://localhost`",
    ),
    (
        "--uri=rabbitmq-stream://a:secret@localhost -q consume s -- -5",
        USAGE,
        "--uri is before the command",
        "write options after the command: `rstream consume s --uri=rabbitmq-stream://a:***@localhost -q -- -5`",
    ),
    (
        "--host stream stream info s",
        USAGE,
        "--host is before the command",
        "write options after the command: `rstream stream info s --host stream`",
    ),
    (
        "--json version",
        USAGE,
        "--json is before the command",
        "write options after the command: `rstream version --json`",
    ),
    (
        "stream -q info s",
        USAGE,
        "-q is before the command",
        "write options after the command: `rstream stream info s -q`",
    ),
    (
        "-v",
        USAGE,
        "no such option: -v",
        "--version prints the version; to get a log, write -v after a command",
    ),
    ("--host localhost", USAGE, "no such option: --host", GROUPS),
    ("--bogus stream info s", USAGE, "no such option: --bogus", GROUPS),
    # Options that do not exist.
    ("consume s --ofset first", USAGE, "no such option: --ofset", "did you mean --offset?"),
    ("consume s --from-beginning", USAGE, "no such option: --from-beginning", "write `--offset first`"),
    (
        "consume s --follow",
        USAGE,
        "no such option: --follow",
        "consume waits for new messages without an option; --until, --count or a timeout ends it",
    ),
    ("consume s --limit 5", USAGE, "no such option: --limit", "write `--count N`"),
    ("sac-consume p --group g", USAGE, "no such option: --group", "write `--name REF`"),
    ("consume s -json", USAGE, "no such option: -j", "did you mean --json?"),
    ("consume s -offset first", USAGE, "-offset: a long option begins with two dashes", "write --offset"),
    (
        "consume s -uri rabbitmq-stream://localhost",
        USAGE,
        "-uri: a long option begins with two dashes",
        "write --uri",
    ),
    ("consume s -host localhost", USAGE, "-host: a long option begins with two dashes", "write --host"),
    (
        "publish s --password secret",
        USAGE,
        "no such option: --password",
        "the list of processes shows a password: use --password-file FILE, or set RSTREAM_PASSWORD",
    ),
    ("publish s --user app", USAGE, "no such option: --user", "write `--username USER`"),
    ("publish s --file x", USAGE, "no such option: --file", "write the files without an option"),
    ("stream delete s --force", USAGE, "no such option: --force", "write `--yes`"),
    ("stream info s --nonsense", USAGE, "no such option: --nonsense", LISTS.format("stream info")),
    ("stream create s --json", USAGE, "no such option: --json", LISTS.format("stream create")),
    (
        "consume s -5",
        USAGE,
        "no such option: -5",
        "to start there, write `--offset -5`",
    ),
    # Arguments.
    ("stream create", USAGE, "missing argument 'NAME'", HELP.format("stream create")),
    ("stream create a b", USAGE, "got unexpected extra argument(s) (b)", HELP.format("stream create")),
    (
        "offset reset s --name n --to -- -1",
        USAGE,
        "no such option: -1",
        "to read from there, write `--to -1`",
    ),
    ("consume s first", USAGE, "got unexpected extra argument(s) (first)", "to start there, write `--offset first`"),
    ("consume", USAGE, "no stream is given", "pass STREAM, or set RSTREAM_STREAM"),
    ("publish -m x", USAGE, "no stream is given", "pass STREAM, or set RSTREAM_STREAM"),
    ("offset query s", USAGE, "missing option '--name'", HELP.format("offset query")),
    ("offset store s five --name r", USAGE, "not an offset: 'five'", "an offset is a whole number, 0 to 2^64 - 1"),
    ("offset store s --name r", USAGE, "missing argument 'OFFSET'", "give STREAM and OFFSET"),
    ("offset store 5 --name r", USAGE, "no stream is given", "pass STREAM, or set RSTREAM_STREAM"),
    ("offset resolve s", USAGE, "missing argument 'SPEC'", "give STREAM and SPEC"),
    ("offset resolve first", USAGE, "no stream is given", "pass STREAM, or set RSTREAM_STREAM"),
    (
        "lag s --name r --fail-over soon",
        USAGE,
        "--fail-over: neither a number of messages nor a duration: 'soon'; give 1000, 90s or 5m",
        None,
    ),
    ("copy s", USAGE, "missing argument 'TARGET'", HELP.format("copy")),
    ("copy s t --follow --until end", USAGE, "--follow and --until contradict each other", None),
    ("copy s t --rate 5/s --pace 2x", USAGE, "--rate and --pace contradict each other", None),
    (
        "copy s t --offset stored",
        USAGE,
        "--offset stored: a copy goes on by itself",
        "leave out --offset, and run the same command again",
    ),
    (
        "copy s t --match-unfiltered",
        USAGE,
        "--match-unfiltered needs --filter",
        "pass --filter VALUE, once for each value",
    ),
    (
        "copy s t --set-filter-from .x --compression gzip",
        USAGE,
        "--set-filter-from and --compression contradict each other: a sub-entry has no filter values",
        None,
    ),
    ("doctor s", USAGE, "got unexpected extra argument(s) (s)", "to look at a stream, write `--stream s`"),
    ("offset resolve s stored", USAGE, "stored needs --name", "pass --name REF"),
    (
        "consume rabbitmq-stream://guest:secret@localhost",
        USAGE,
        "the stream name is a URI",
        "pass the address of a broker with --uri, or set RSTREAM_URI",
    ),
    # What is published.
    (
        "publish s hello",
        USAGE,
        "hello: No such file or directory",
        "FILEs stand there; to publish it as a message, write `-m hello`",
    ),
    (
        "publish s hello world",
        USAGE,
        "hello: No such file or directory",
        "FILEs stand there; to publish it as a message, write `-m 'hello world'`",
    ),
    (
        "superstream publish p hello --key k",
        USAGE,
        "hello: No such file or directory",
        "FILEs stand there; to publish it as a message, write `-m hello`",
    ),
    ("publish s {folder}/none.txt", USAGE, "{folder}/none.txt: No such file or directory", None),
    ("publish s {folder}", USAGE, "{folder}: Is a directory", None),
    (
        "publish s -m x --property subjekt=eu",
        USAGE,
        "--property: no such property: 'subjekt'",
        f"did you mean subject? {PROPERTIES}",
    ),
    ("publish s -m x --property color=red", USAGE, "--property: no such property: 'color'", PROPERTIES),
    ("publish s -m x --property subject", USAGE, "--property: not a pair: 'subject'; give key=value", None),
    (
        "publish s -m x --property group_sequence=7",
        USAGE,
        "--property: group_sequence: must be a whole number, not a string",
        "KEY=TEXT sets text, KEY:=JSON a value of another type",
    ),
    (
        "publish s -m x -H n:=five",
        USAGE,
        "--header: the value of n:= is not valid: not JSON: ",
        None,
    ),
    (
        "publish s -m x file",
        USAGE,
        "--message and FILE contradict each other",
        "publish the files with a second command",
    ),
    (
        "publish s -m x --id-from line",
        USAGE,
        "--id-from needs --name",
        "the broker remembers publishing ids by a name",
    ),
    ("publish s -m x --json", BAD, "record 1: not JSON: ", None),
    (
        "publish s -m x --filter v --compression gzip",
        USAGE,
        "--filter cannot be used with sub-entries",
        "leave out --method sub-entry and --compression",
    ),
    (
        "superstream publish p -m x",
        USAGE,
        "pass one of --key, --key-from and --key-delimiter",
        "such as --key-delimiter '\\t' for lines of a key, a tab and a text",
    ),
    (
        "superstream publish p -m x --key nobody --routing key",
        BAD,
        "record 1: super stream 'p' has no partition for routing key 'nobody'",
        None,
    ),
    # What is consumed.
    (
        "consume s --offset begin",
        USAGE,
        "--offset: not an offset: 'begin'; allowed: first, last, next, stored, N, -N (the last N messages), -1h (ago), "
        + OFFSETS,
        None,
    ),
    (
        "consume s --until tomorrow",
        USAGE,
        f"--until: not a place to stop: 'tomorrow'; allowed: end, N (an offset), -1h (ago), {OFFSETS}",
        None,
    ),
    ("consume s -n many", USAGE, "--count: not a whole number: 'many'", None),
    ("consume s --offset stored", USAGE, "--offset stored needs --name", "pass --name REF"),
    ("consume s --store-every 5", USAGE, "--store-every needs --name", "pass --name REF"),
    ("consume s --filter-from .a", USAGE, "--filter-from needs --filter", "pass --filter VALUE, once for each value"),
    ("consume s --output lines -0", USAGE, "-0 and --output contradict each other", None),
    (
        "diff s",
        USAGE,
        "no second stream is given",
        "pass A and B, or A with --to-context or --to-uri",
    ),
    ("diff s s --ignore footnote", USAGE, "--ignore: not a section: 'footnote'; there are header, delivery", None),
    (
        "diff s s --offset next",
        USAGE,
        "--offset: next is no place where two streams can be compared",
        "give first, N, -N or a time",
    ),
    ("diff s s --to-offset x", USAGE, "--to-offset: not an offset: 'x'", None),
    ("diff s s --to-context c --to-uri rabbitmq-stream://h", USAGE, "--to-context and --to-uri contradict each", None),
    ("diff s s --window 0", USAGE, "--window: out of range: 0; at least 1 and at most 10000", None),
    # What is not there, or is there already.
    ("diff s nowhere", NOT_FOUND, "there is no stream and no super stream 'nowhere'", MISSING),
    (
        "publish nowhere -m x",
        NOT_FOUND,
        "stream 'nowhere': the stream does not exist",
        "--create creates it; or is it in another virtual host?",
    ),
    (
        "superstream publish nowhere -m x --key k",
        NOT_FOUND,
        "super stream 'nowhere': the super stream does not exist",
        "`rstream superstream create nowhere --partitions N` creates it; or is it in another virtual host?",
    ),
    ("consume nowhere", NOT_FOUND, "stream 'nowhere': the stream does not exist", MISSING),
    ("stream info nowhere", NOT_FOUND, "stream 'nowhere': the stream does not exist", MISSING),
    ("superstream route nowhere k", NOT_FOUND, "super stream 'nowhere': the super stream does not exist", MISSING),
    (
        "sac-consume nowhere --name g",
        NOT_FOUND,
        "there is no stream and no super stream 'nowhere'",
        MISSING,
    ),
    (
        "publish p -m x",
        NOT_FOUND,
        "stream 'p': the stream does not exist",
        "'p' is a super stream: rstream superstream publish p",
    ),
    (
        "superstream info s",
        NOT_FOUND,
        "super stream 's': the super stream does not exist",
        "'s' is a stream, not a super stream: rstream stream info s",
    ),
    (
        "stream delete nowhere --yes",
        NOT_FOUND,
        "stream 'nowhere': the stream does not exist",
        "check the name and the virtual host; --missing-ok accepts a name that does not exist",
    ),
    (
        "stream delete p --yes",
        NOT_FOUND,
        "stream 'p': the stream does not exist",
        "'p' is a super stream: rstream superstream delete p",
    ),
    ("stream create s --max-age 0", USAGE, "--max-age: an age is at least 1: '0'", None),
    (
        "offset query s --name nobody",
        NOT_FOUND,
        "the offset of 'nobody' in stream 's': no offset is stored under this name",
        None,
    ),
    ("stream create s", PRECONDITION, "stream 's': the stream exists already", "pass --exists-ok if it may exist"),
    (
        "stream create s --exists-ok --max-age 7D",
        PRECONDITION,
        "stream 's': precondition failed",
        "it exists with other arguments, or the broker does not accept one of these arguments",
    ),
    (
        "stream delete s",
        USAGE,
        "cannot ask whether to delete: there is no terminal",
        "pass --yes to delete without a question",
    ),
    ("superstream create q", USAGE, "pass one of --partitions and --routing-keys", None),
    ("superstream create q --partitions none", USAGE, "--partitions: not a whole number: 'none'", None),
    # Values of options.
    (
        "stream create q --filter-size 15",
        USAGE,
        "--filter-size: out of range: 15; at least 16 and at most 255",
        None,
    ),
    ("stream create q --max-length-bytes lots", USAGE, "--max-length-bytes: not a size: 'lots'", None),
    ("stream create q --max-age 7x", USAGE, "--max-age: unknown unit 'x' in the age '7x'", None),
    ("stream create q --argument max-age", USAGE, "--argument: not a pair: 'max-age'; give key=value", None),
    ("stream info s --color blue", USAGE, "--color: not one of auto, always, never: 'blue'", None),
    ("completion tcsh", USAGE, "SHELL: not one of bash, zsh, fish: 'tcsh'", None),
    ("broker run --user alice", USAGE, "--user: must be NAME:PASSWORD, as in alice:secret", None),
)
"""With the broker's address in RSTREAM_URI. Where a message goes on, only its beginning is here."""

ADDRESSES: tuple[Row, ...] = (
    ("--uri localhost:5552", USAGE, SCHEME, "write rabbitmq-stream://localhost:5552"),
    ("--uri localhost", USAGE, SCHEME, "write rabbitmq-stream://localhost:5552"),
    ("--uri localhost:5551", USAGE, SCHEME, "write rabbitmq-stream+tls://localhost:5551"),
    (
        "--uri guest:secret@localhost:5552",
        USAGE,
        SCHEME,
        "write rabbitmq-stream:// before the host, or rabbitmq-stream+tls:// for TLS",
    ),
    (
        "--uri amqp://guest:secret@localhost:5672",
        USAGE,
        f"{SCHEME}, not amqp://",
        "this is an address for AMQP; write rabbitmq-stream://HOST:5552, or rabbitmq-stream+tls://HOST:5551",
    ),
    (
        "--uri amqp://localhost:5672/prod",
        USAGE,
        f"{SCHEME}, not amqp://",
        "write rabbitmq-stream://localhost:5552/prod",
    ),
    ("--uri amqps://localhost", USAGE, f"{SCHEME}, not amqps://", "write rabbitmq-stream+tls://localhost:5551"),
    (
        "--uri http://localhost:15672/#/queues",
        USAGE,
        f"{SCHEME}, not http://",
        "this is the address of the management pages; write rabbitmq-stream://HOST:5552, or rabbitmq-stream+tls://HOST:5551",
    ),
    ("--uri http://localhost:15672", USAGE, f"{SCHEME}, not http://", "write rabbitmq-stream://localhost:5552"),
    ("--uri rabbitmq://localhost", USAGE, f"{SCHEME}, not rabbitmq://", "write rabbitmq-stream://localhost:5552"),
    (
        "--uri rabbitmq-stream://localhost:port",
        USAGE,
        "--uri: the URI cannot be read: the port is not a number between 1 and 65535",
        None,
    ),
    (
        "--uri rabbitmq-stream://localhost --port 5553",
        USAGE,
        "--uri and --port contradict each other",
        "write the host and the port into the URI",
    ),
    (
        "--tls --uri rabbitmq-stream://localhost",
        USAGE,
        "--tls contradicts rabbitmq-stream://",
        "the scheme of the URI decides: rabbitmq-stream:// or rabbitmq-stream+tls://",
    ),
    (
        "--host rabbitmq-stream://localhost",
        USAGE,
        "--host: this is a URI, not a host",
        "pass it as --uri, or set RSTREAM_URI",
    ),
    (
        "--host localhost:5552",
        USAGE,
        "--host: this is a host and a port: 'localhost:5552'",
        "write --host localhost --port 5552",
    ),
    ("--host [::1]:5552", USAGE, "--host: this is a host and a port: '[::1]:5552'", "write --host [::1] --port 5552"),
    ("--port 555two", USAGE, "--port: not a port: '555two'; a number between 1 and 65535", None),
    ("--host 127.0.0.1 --port {closed}", CONNECTION, "127.0.0.1:{closed} refuses the connection", RUNNING),
    ("--tls --host 127.0.0.1 --port {closed}", CONNECTION, "127.0.0.1:{closed} refuses the connection", WITH_TLS),
    ("--tls --host 127.0.0.1 --port {port}", CONNECTION, "127.0.0.1:{port} ended the TLS handshake", TLS_PORT),
    (
        "--uri rabbitmq-stream+tls://127.0.0.1:{port}",
        CONNECTION,
        "127.0.0.1:{port} ended the TLS handshake",
        TLS_PORT,
    ),
    (
        "--ca-file x --port {port}",
        USAGE,
        "--ca-file has no effect without TLS",
        "pass --tls, or a URI that begins with rabbitmq-stream+tls://",
    ),
    (
        "--username app --port {port}",
        USAGE,
        "no password is given for the user 'app'",
        "pass --password-file FILE or --password-command CMD, or set RSTREAM_PASSWORD",
    ),
    (
        "--uri rabbitmq-stream://guest:secret@127.0.0.1:{port}",
        ACCESS,
        "user 'guest': authentication failed: wrong user name or password",
        "without a user name, the user is guest; `rabbitmqctl authenticate_user` checks a password",
    ),
    (
        "--uri rabbitmq-stream://127.0.0.1:{port}/none",
        ACCESS,
        "virtual host 'none': the virtual host does not exist, or this user may not use it",
        VHOST,
    ),
    (
        "--sasl external --port {port}",
        USAGE,
        "SASL EXTERNAL logs in with a client certificate",
        "pass --tls and --cert, or leave out --sasl external",
    ),
    ("--sasl kerberos", USAGE, "--sasl: unknown login method: 'kerberos'; allowed: plain, external, oauthbearer", None),
    ("--heartbeat 1.5s", USAGE, "--heartbeat: not a whole number of seconds: '1.5s'", None),
    (
        "--frame-max 12B",
        USAGE,
        "--frame-max: not the size of a frame: '12B'; 0 for no limit, or 1000 bytes to 2GiB - 1",
        None,
    ),
    (
        "--tls --cert-key k.pem",
        USAGE,
        "--cert-key needs a certificate",
        "pass --cert FILE",
    ),
)
"""Behind ``stream info s``, with nothing in the environment."""


@dataclass(frozen=True)
class Place:
    """What the command lines name."""

    uri: str
    port: int
    closed: int
    folder: str

    def fill(self, text: str) -> str:
        for name in ("port", "closed", "folder"):
            text = text.replace(f"{{{name}}}", str(getattr(self, name)))
        return text


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with EmbeddedBroker() as broker, closed_port() as closed:
        env = {"RSTREAM_URI": broker.uri}
        for words in ("publish s --create -m x", "superstream create p --partitions 2"):
            assert run_here(*words.split(), env=env).status == 0
        yield Place(broker.uri, broker.port, closed, str(tmp_path_factory.mktemp("none")))


@pytest.mark.parametrize(("command", "code", "message", "hint"), COMMANDS, ids=[row[0] for row in COMMANDS])
def test_a_mistake_of_a_command(place: Place, command: str, code: int, message: str, hint: str | None) -> None:
    check(place, command, {"RSTREAM_URI": place.uri}, code, message, hint)


@pytest.mark.parametrize(("options", "code", "message", "hint"), ADDRESSES, ids=[row[0] for row in ADDRESSES])
def test_a_mistake_of_an_address(place: Place, options: str, code: int, message: str, hint: str | None) -> None:
    check(place, f"stream info s {options}", {}, code, message, hint)


def check(place: Place, command: str, env: dict[str, str], code: int, message: str, hint: str | None) -> None:
    done = run_here(*shlex.split(place.fill(command)), env=env)
    lines = done.errors.splitlines()
    assert lines[0].startswith(f"error: {place.fill(message)}"), done.errors
    assert lines[1:] == ([] if hint is None else [f"hint: {place.fill(hint)}"])
    assert done.status == code
    assert done.output == ""
    assert ":secret@" not in done.errors


def test_there_are_a_hundred_and_each_is_one() -> None:
    commands = [row[0] for row in COMMANDS] + [f"stream info s {row[0]}" for row in ADDRESSES]
    assert len(set(commands)) == len(commands) >= 100


def test_no_hint_only_repeats_its_error() -> None:
    """Each brings more than half its words by itself."""
    for command, _, message, hint in (*COMMANDS, *ADDRESSES):
        if hint is not None:
            words = set(hint.replace("`", " ").lower().split())
            assert len(words & set(message.lower().split())) <= len(words) / 2, command


# --- What the port belongs to --------------------------------------------------------------------------------


@contextmanager
def listening(answer: bytes) -> Iterator[int]:
    """A port where somebody says this to the first bytes of each client, and leaves."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(
    ("answer", "words", "hint"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "speaks HTTP, not the stream protocol", Hint.STREAM_PORT),
        (b"AMQP\0\0\x09\x01", "speaks AMQP, not the stream protocol", Hint.STREAM_PORT),
        (b"\x15\x03\x03\0\x02\x02\x50", "speaks TLS", "use rabbitmq-stream+tls:// or --tls for this port"),
        (
            b"",
            "closed the connection during the handshake",
            "is it a TLS port? use rabbitmq-stream+tls:// or --tls for it",
        ),
    ],
)
@pytest.mark.parametrize("of_another", [None, Hint.MANAGEMENT_PORT])
def test_somebody_else_on_the_port(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, words: str, hint: str, of_another: Hint | None
) -> None:
    with listening(answer) as port:
        if of_another is not None:
            monkeypatch.setattr("rstream_core.connecting.transport._OTHER_PORTS", {port: of_another})
        done = run_here("stream", "info", "s", "--host", "127.0.0.1", "--port", str(port))
    expected = hint if of_another is None or words == "speaks TLS" else of_another
    assert done == (6, b"", f"error: 127.0.0.1:{port} {words}\nhint: {expected}\n")


@pytest.mark.parametrize(
    ("port", "hint"),
    [
        (5672, Hint.AMQP_PORT),
        (5671, Hint.AMQP_PORT),
        (15672, Hint.MANAGEMENT_PORT),
        (15671, Hint.MANAGEMENT_PORT),
        (1883, Hint.OTHER_PORT),
        (5552, None),
        (5551, None),
    ],
)
@pytest.mark.parametrize("tls", [False, True])
def test_the_usual_ports_of_other_protocols(port: int, hint: Hint | None, tls: bool) -> None:
    there = Endpoint("somewhere", port)
    assert port_hint(there) is hint
    refused = Hint.IS_IT_RUNNING_WITH_TLS if tls else Hint.IS_IT_RUNNING
    assert connection_error(there, ConnectionRefusedError(), tls=tls).hint is (hint or refused)
    ended = Hint.IS_IT_THE_TLS_PORT if tls else None
    assert connection_error(there, ConnectionResetError(), tls=tls).hint is (hint or ended)


def test_tls_with_nothing_listening_starts_no_broker_without_tls(place: Place, tmp_path: Path) -> None:
    """Where no address is given, and nobody listens, the hint is how to start a broker: one that has no TLS."""
    from rstream_cli.environment import Environment
    from rstream_cli.options.connecting import ConnectionSettings
    from rstream_cli.runner import start_hint
    from rstream_core import ConnectionFailed

    env = Environment.on(0, 1, 2, {})
    refused = ConnectionFailed("localhost:5551 refuses the connection", hint=Hint.IS_IT_RUNNING_WITH_TLS)
    assert start_hint(refused, ConnectionSettings(env, {"tls": "yes"})) is None
    assert start_hint(refused, ConnectionSettings(env, {})) is not None


def test_the_old_name_of_the_clients_key_warns(place: Place) -> None:
    env = {"RSTREAM_URI": place.uri}
    words = ("--key", "k", "--no-tls", "-u", place.uri)
    done = run_here("publish", "s", "-m", "x", *words, env={})
    assert done.errors == (
        "warning: --key is the old name of --cert-key; --key is the routing key of `superstream publish`\n"
        "error: --cert-key has no effect without TLS\n"
        "hint: pass --tls, or a URI that begins with rabbitmq-stream+tls://\n"
    )
    assert run_here("superstream", "publish", "p", "-m", "x", "--key", "k", env=env) == (0, b"", "")
