"""What was most likely meant by a command line that cannot be read: the hints of usage errors.

Commands and options that do not exist are looked for where they do, and by the names that other tools give them.
Commands are what Typer makes; of a group, its modules are imported here, as an error is no hurry.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rstream_cli.exit_status import CommandError

_COMMANDS: Mapping[str, tuple[str, ...]] = {
    "publish": ("produce", "producer", "pub", "send", "write", "put", "push"),
    "consume": ("consumer", "subscribe", "sub", "read", "tail", "cat", "get", "receive", "listen", "fetch", "pull"),
    "create": ("add", "new", "declare", "make"),
    "delete": ("rm", "remove", "del", "drop"),
    "info": ("describe", "show", "stats", "status", "inspect"),
    "superstream": ("super-stream", "super_stream", "superstreams", "super"),
    "offset": ("offsets",),
    "query": ("get", "show"),
    "store": ("set", "commit"),
    "broker": ("server", "serve", "start"),
    "doctor": ("check", "diagnose", "ping"),
    "help": ("usage",),
    "list": ("ls", "streams", "queues", "topics"),
}
"""Our words for those of other tools. ``help`` has a hint of its own."""
_OPTIONS: Mapping[str, str] = {
    "--follow": "consume waits for new messages without an option; --until, --count or a timeout ends it",
    "--from-beginning": "write `--offset first`",
    "--from": "write `--offset SPEC`",
    "--start": "write `--offset SPEC`",
    "--limit": "write `--count N`",
    "--max-messages": "write `--count N`",
    "--group": "write `--name REF`",
    "--consumer-name": "write `--name REF`",
    "--reference": "write `--name REF`",
    "--body": "write `--message TEXT`",
    "--data": "write `--message TEXT`",
    "--text": "write `--message TEXT`",
    "--file": "write the files without an option",
    "--stream": "write the stream without an option",
    "--user": "write `--username USER`",
    "--password": "the list of processes shows a password: use --password-file FILE, or set RSTREAM_PASSWORD",
    "--ssl": "write `--tls`",
    "--virtual-host": "write `--vhost VHOST`",
    "--cacert": "write `--ca-file FILE`",
    "--ca": "write `--ca-file FILE`",
    "--key-file": "write `--cert-key FILE`",
    "--no-verify": "write `--insecure`",
    "--skip-verify": "write `--insecure`",
    "--partition": "a partition is a stream: `rstream consume NAME-0` reads one",
    "--force": "write `--yes`",
    "--if-not-exists": "write `--exists-ok`",
    "--if-exists": "write `--missing-ok`",
}
"""What to do, where the command has the option that it names, or where it names none."""
_SHORT = frozenset({"-u", "-o", "-n", "-h"})
"""Short options in which a long one with a single dash, as -uri, would be lost. Others take any text, or do not
exist."""


def command_hint(group: Any, context: Any, name: str) -> str:
    """For a command that the group of ``context`` does not have."""
    if "://" in name:
        return "pass the address of a broker with --uri, after the command"
    root = context.find_root()
    meant = [word for word, others in _COMMANDS.items() if name.lower() in (word, *others)]
    if "help" in meant:
        return f"`{context.command_path} --help` lists all commands, and each command has --help"
    own = [word for word in meant if word in group.list_commands(context)]
    if own:
        return f"did you mean `{context.command_path} {own[0]}`?"
    # Who has left out the group means one about streams, which others call by these words, too.
    others = ("context ", "bench ")
    paths = [f"{root.command_path} {path}" for path in _paths(root.command, root) if not path.startswith(others)]
    elsewhere = [f"`{path}`" for word in (name, *meant) for path in paths if path.endswith(f" {word}")]
    if elsewhere:
        return f"did you mean {' or '.join(dict.fromkeys(elsewhere))}?"
    near = difflib.get_close_matches(name, group.list_commands(context), n=1, cutoff=0.6)
    return (
        f"did you mean `{context.command_path} {near[0]}`?" if near else f"`{context.command_path} --help` lists them"
    )


def _paths(group: Any, context: Any) -> Iterator[str]:
    """The words of every command in a group; of a group in it, its own too."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield name
        if hasattr(command, "list_commands"):
            yield from (f"{name} {path}" for path in _paths(command, context))


def misplaced_option(name: str, context: Any, path: str, arguments: Sequence[str]) -> CommandError | None:
    """For an option that is before the command that has it; see ``option_hint``."""
    if not hasattr(context.command, "list_commands"):
        return None
    behind = _behind_the_command(context, path, arguments)
    if behind is None:
        return None
    return CommandError(f"{name} is before the command", hint=f"write options after the command: `{behind}`")


def option_hint(name: str, context: Any, path: str, arguments: Sequence[str]) -> str:
    """For an option that the command of ``context`` lacks; ``path`` are its words, ``arguments`` all there are."""
    options = flags_of(context.command)
    if re.match(r"-[0-9.]", name):
        value = next((argument for argument in arguments if argument.startswith(name)), name)
        if "--offset" in options:
            return f"to start there, write `--offset {value}`"
        if "--to" in options:
            return f"to read from there, write `--to {value}`"
        others = shlex.join(["rstream", *(argument for argument in arguments if argument != value)])
        return f"to pass {value} as a value, write `--` before it: `{others} -- {value}`"
    if name == "-v" and "--version" in options:
        return "--version prints the version; to get a log, write -v after a command"
    for word in arguments:
        if word.startswith(name) and f"-{word}" in options:
            return f"did you mean -{word}?"
    habit = _OPTIONS.get(name)
    if habit is not None and all(option in options for option in re.findall(r"--[a-z-]+", habit)):
        return habit
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.7)
    if near:
        return f"did you mean {near[0]}?"
    if hasattr(context.command, "list_commands"):
        return f"write options after a command: `{path} --help` lists the commands"
    return f"`{path} --help` lists them"


def flags_of(command: Any) -> list[str]:
    """All options of a command, as they are written; without those that are hidden."""
    return [
        flag
        for parameter in getattr(command, "params", ())
        if not getattr(parameter, "hidden", False)
        for flag in (*parameter.opts, *parameter.secondary_opts)
    ]


def near_values(text: str, values: Sequence[str]) -> list[str]:
    """The value that was most likely meant, if there is one."""
    return difflib.get_close_matches(text.lower(), values, n=1, cutoff=0.6)


def takes_value(option: Any) -> bool:
    """Whether a value follows the option."""
    return not (option.is_flag or option.count)


def _behind_the_command(context: Any, path: str, arguments: Sequence[str]) -> str | None:
    """The same words with the options behind the command; None where they are none of that command's."""
    before = list(arguments[: len(path.split()) - 1])
    rest = list(arguments[len(before) :])
    for at in range(1, len(rest)):
        command, size = _command_at(context, rest[at:])
        if command is not None and _are_options(rest[:at], command):
            words = [*rest[at : at + size], *rest[at + size :]]
            end = words.index("--") if "--" in words else len(words)
            return shlex.join(["rstream", *before, *words[:end], *rest[:at], *words[end:]])
    return None


def _command_at(context: Any, words: Sequence[str]) -> tuple[Any, int]:
    """The command that the words begin with, and how many of them are its name."""
    command, size = context.command, 0
    for word in words:
        if not hasattr(command, "list_commands"):
            break
        command = command.get_command(context, word)
        if command is None:
            return None, 0
        size += 1
    return (None, 0) if hasattr(command, "list_commands") else (command, size)


def _are_options(words: Sequence[str], command: Any) -> bool:
    """Whether these are options of the command, with their values."""
    flags = {flag: parameter for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    rest = iter(words)
    for word in rest:
        flag, has_value, _ = word.partition("=")
        parameter = flags.get(flag) or flags.get(word[:2] if re.fullmatch(r"-[a-zA-Z]+", word) else "")
        if parameter is None or parameter.param_type_name != "option":
            return False
        if takes_value(parameter) and not has_value and next(rest, None) is None:
            return False
    return True


def one_dash(command: Any, arguments: Sequence[str]) -> str | None:
    """A long option that is written with one dash, and would be read as a short one with a value."""
    flags = {flag: parameter for parameter in command.params for flag in parameter.opts}
    before = ""
    for word in arguments:
        if word == "--":
            break
        owner = flags.get(before)
        is_value = owner is not None and owner.param_type_name == "option" and takes_value(owner)
        if not is_value and word[:2] in _SHORT and f"-{word.partition('=')[0]}" in flags:
            return word
        before = "" if is_value else word
    return None


def looks_like_offset(text: str) -> bool:
    """Whether somebody may have meant an offset."""
    return re.fullmatch(r"first|last|next|stored|[0-9]+", text) is not None


def offset_hint(text: str) -> str:
    """For an offset where none belongs."""
    return f"to start there, write `--offset {text}`"


def extra_hint(command: Any, path: str, extra: str) -> str:
    """For an argument too many."""
    if "--offset" in flags_of(command) and looks_like_offset(extra):
        return offset_hint(extra)
    if "--stream" in flags_of(command):
        return f"to look at a stream, write `--stream {shlex.quote(extra)}`"
    return f"see `{path} --help`"
