"""What a shell may put in the place of the word at the cursor.

A shell's script (``completion_scripts``) calls the program with the words up to the cursor and the name of the shell in
``_RSTREAM_COMPLETE``. The answer is a line for each candidate; exit code ``FILES`` says that the name of a file belongs
there. Candidates replace the whole word, so what stands before a value (``--method=b``) is a part of them, but for
bash, which replaces what is behind the last of its break characters alone.

What the commands take stands in ``completion_table``, so that a TAB does not wait for Typer and the commands.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from rstream_cli.completable import CONTEXT, EITHER, STREAM, SUPER_STREAM, Command, Parameter
from rstream_cli.completion_table import COMMANDS

TYPE_CHECKING = False  # a TAB shall not wait for typing
if TYPE_CHECKING:
    from rstream_cli.environment import Environment

FILES = 3
"""The exit code where file names belong."""


class Candidate:
    """A word, and what it is."""

    __slots__ = ("help", "is_name", "word")

    def __init__(self, word: str, help: str = "", *, is_name: bool = False) -> None:  # noqa: A002 - as Typer calls it
        self.word = word
        self.help = help
        self.is_name = is_name
        """Whether somebody else has chosen the word: it may hold what a shell would act upon."""


class Candidates:
    """What may stand at the cursor."""

    __slots__ = ("wants_file", "words")

    def __init__(self, words: list[Candidate], wants_file: bool = False) -> None:
        self.words = words
        self.wants_file = wants_file


Names = Mapping[str, Callable[[Mapping[str, str]], Sequence[str]]]
"""What finds names, by their kind, such as ``STREAM``.

It is only called when they are wanted, with the values of the options by the names of their parameters."""


def complete(shell: str, arguments: Sequence[str], env: Environment) -> int:
    """Writes the answer to a shell's script, and returns the exit code."""
    try:
        text, status = answer(shell, arguments, _names(env))
    except Exception as error:  # noqa: BLE001 - told as that of any command
        from rstream_cli.runner import report

        return report(error, env=env)
    env.stdout.write(text)
    return status


def _names(env: Environment) -> Names:
    """What finds names for completion; nothing is imported before they are wanted."""

    def of_user(_: Mapping[str, str]) -> Sequence[str]:
        from rstream_cli.contexts import context_names

        return context_names(env.variables)

    def of_broker(wanted: str) -> Callable[[Mapping[str, str]], Sequence[str]]:
        def find(values: Mapping[str, str]) -> Sequence[str]:
            from rstream_cli.stream_names import Wanted, find_names

            return find_names(env, values, Wanted[wanted])

        return find

    return {
        CONTEXT: of_user,
        STREAM: of_broker("STREAMS"),
        SUPER_STREAM: of_broker("SUPER_STREAMS"),
        EITHER: of_broker("BOTH"),
    }


def answer(shell: str, arguments: Sequence[str], names: Names) -> tuple[str, int]:
    """The text for a shell's script, and the exit code. An unknown shell gets nothing."""
    if shell not in _SHELLS:
        return "", 0
    read, show = _SHELLS[shell]
    words, typed = read(arguments)
    found = candidates(words, names)
    if found.wants_file:
        return "", FILES
    return "".join(f"{line}\n" for line in show(found.words, typed)), 0


def candidates(words: Sequence[str], names: Names) -> Candidates:
    """What may stand in the place of the last word; the others, without the program's name, are before it."""
    *before, word = words
    path, at = "", 0
    while COMMANDS[path].commands and at < len(before):
        name, at = before[at], at + 1
        child = f"{path} {name}".lstrip()
        if child in COMMANDS and not name.startswith("-") and " " not in name:
            path = child
        elif not name.startswith("-"):
            return Candidates([])
    return _in_command(COMMANDS[path], before[at:], word, names)


def _in_command(command: Command, before: Sequence[str], word: str, names: Names) -> Candidates:
    by_name = {name: option for option in command.options for name in (*option.names, *option.negative)}
    given: set[str] = set()
    values: dict[str, str] = {}
    positional = 0
    waiting: Parameter | None = None
    only_arguments = False
    for text in before:
        if waiting is not None:
            _set(values, waiting, text)
            waiting = None
        elif only_arguments or not text.startswith("-") or text == "-":
            positional += 1
        elif text == "--":
            only_arguments = True
        else:
            name, is_joined, value = text.partition("=")
            option = by_name.get(name)
            given.add(name)
            if option is None:
                continue
            if not option.takes_value:
                _set(values, option, "no" if name in option.negative else "yes")
            elif is_joined:
                _set(values, option, value)
            else:
                waiting = option
    find = {key: partial(of, values) for key, of in names.items()}
    if waiting is not None:
        return _values(waiting, word, "", find)
    if not only_arguments and word.startswith("-"):
        name, is_joined, value = word.partition("=")
        if is_joined:
            option = by_name.get(name)
            return (
                Candidates([]) if option is None or not option.takes_value else _values(option, value, f"{name}=", find)
            )
        return Candidates(list(_option_names(command.options, given, word)))
    if command.commands:
        return Candidates([Candidate(name, text) for name, text in command.commands if name.startswith(word)])
    arguments = command.arguments
    if not arguments or (positional >= len(arguments) and not arguments[-1].repeats):
        return Candidates([])
    found = _values(arguments[min(positional, len(arguments) - 1)], word, "", find)
    taken = set(before)
    may_begin = () if only_arguments else ("-",)  # which would be an option
    words = [one for one in found.words if not one.is_name or not (one.word in taken or one.word.startswith(may_begin))]
    return Candidates(words, found.wants_file)


def _set(values: dict[str, str], option: Parameter, text: str) -> None:
    """Notes the value of an option; several of one option are lines."""
    before = f"{values[option.key]}\n" if option.repeats and option.key in values else ""
    values[option.key] = before + text


def _values(
    parameter: Parameter, text: str, before: str, names: Mapping[str, Callable[[], Sequence[str]]]
) -> Candidates:
    """What a parameter takes; ``before`` is what stands before the value in the same word."""
    if find := names.get(parameter.kind):
        is_name = parameter.kind != CONTEXT
        return Candidates([Candidate(before + name, is_name=is_name) for name in find() if name.startswith(text)])
    found = [Candidate(before + word) for word in parameter.words if word.startswith(text)]
    return Candidates(found, parameter.takes_file)


def _option_names(options: Sequence[Parameter], given: set[str], word: str) -> Iterator[Candidate]:
    """The names of options that may yet be given: the long ones, and where a short one is typed, that."""
    for option in options:
        names = (*option.names, *option.negative)
        if given.intersection(names) and not option.repeats:
            continue
        for name in names:
            if name.startswith(word) and (name.startswith("--") or name == word):
                yield Candidate(name, option.help)


# --- bash ----------------------------------------------------------------------------------------------------


class Typed:
    """The word at the cursor as it stands in the line, and what of it bash will replace."""

    __slots__ = ("raw", "replaced")

    def __init__(self, raw: str = "", replaced: str = "") -> None:
        self.raw = raw
        self.replaced = replaced


def _read_bash(arguments: Sequence[str]) -> tuple[list[str], Typed]:
    """The words of the line up to the cursor, and the last one as it was typed."""
    line, replaced = (*arguments, "", "")[:2]
    return _split(line)[1:] or [""], Typed(_last_word(line), replaced)


def _last_word(line: str) -> str:
    """What is behind the last blank that is neither quoted nor escaped."""
    start, quote, is_escaped = 0, "", False
    for at, letter in enumerate(line):
        if is_escaped:
            is_escaped = False
        elif letter == "\\" and quote != "'":
            is_escaped = True
        elif quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter.isspace():
            start = at + 1
    return line[start:]


def _split(line: str) -> list[str]:
    """The words of a command line that is not finished; the last one is the word at the cursor, which may be empty."""
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    try:
        while (word := lexer.get_token()) is not None:
            words.append(word)
    except ValueError:  # a quotation mark that is not closed, or a backslash at the end
        return [*words, lexer.token or ""]
    return words if line and not line[-1].isspace() else [*words, ""]


def _show_bash(found: Sequence[Candidate], typed: Typed) -> list[str]:
    names = [candidate.word for candidate in found if candidate.is_name]
    if names:
        return list(_names_for_bash(names, typed))
    words = [candidate.word for candidate in found]
    joined = [word for word in words if "=" in word]
    if not joined or typed.replaced.startswith("--"):  # "=" is no break character of this user's
        return words
    return [word.partition("=")[2] for word in joined]


_SAFE = re.compile(r"[\w@%+=:,./-]+")
"""What bash takes as it stands, within quotation marks too."""


def _names_for_bash(names: Sequence[str], typed: Typed) -> Iterator[str]:
    """Names as bash is to put them in the place of what it replaces, so that nothing in them is run or expanded.

    bash puts in what it gets as it stands. In a word with quotation marks only names are offered that need none.
    """
    raw, replaced = typed.raw, typed.replaced
    is_quoted = any(mark in re.sub(r"\\.", "", raw) for mark in "'\"`$")
    if is_quoted:
        raw, replaced = (re.sub(r"[\"']", "", text) for text in (raw, replaced))
    if not raw.endswith(replaced):
        return
    kept = raw[: len(raw) - len(replaced)]
    for name in names:
        if is_quoted:
            if not _SAFE.fullmatch(name):
                continue
            shown = name
        else:
            shown = "".join(letter if _SAFE.fullmatch(letter) else f"\\{letter}" for letter in name)
        if shown.startswith(kept):
            yield shown[len(kept) :]


# --- zsh and fish --------------------------------------------------------------------------------------------


def _read_words(arguments: Sequence[str]) -> tuple[list[str], Typed]:
    return list(arguments) or [""], Typed()


def _show_zsh(found: Sequence[Candidate], _: Typed) -> list[str]:
    """Of ``_describe``: a colon stands before the help. It is data, so that nothing in it is lost or run."""
    return [f"{_escaped(one.word)}:{_escaped(one.help)}" if one.help else _escaped(one.word) for one in found]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace(":", "\\:")


def _show_fish(found: Sequence[Candidate], _: Typed) -> list[str]:
    return [f"{one.word}\t{one.help}" if one.help else one.word for one in found]


_Reader = Callable[[Sequence[str]], tuple[list[str], Typed]]
_Writer = Callable[[Sequence[Candidate], Typed], list[str]]
_SHELLS: dict[str, tuple[_Reader, _Writer]] = {
    "bash": (_read_bash, _show_bash),
    "zsh": (_read_words, _show_zsh),
    "fish": (_read_words, _show_fish),
}
