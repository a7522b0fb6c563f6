"""What a shell may put in the place of the word at the cursor, and the scripts by which it asks.

A shell's script calls the program with the words up to the cursor and the name of the shell in ``_RSTREAM_COMPLETE``.
The answer is a line for each candidate; exit code ``FILES`` says that the name of a file belongs there. Candidates
replace the whole word, so what stands before a value (``--method=b``) is a part of them, but for bash, which replaces
what is behind the last of its break characters alone.
"""

from __future__ import annotations

import enum
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import typer

from rstream_cli.mistakes import takes_value
from rstream_cli.typer_support import PROGRAM, LazyGroup, help_of, kind_of

FILES = 3
"""The exit code where file names belong."""

_FILE_METAVARS = frozenset({"FILE", "[FILE]", "DIR"})
_WORDS = {
    "--offset": ("first", "last", "next", "stored"),
    "--until": ("end",),
    "--sasl": ("plain", "external", "oauthbearer"),
}
"""Of options whose values are not of these words alone."""


STREAM, SUPER_STREAM, EITHER = "STREAM", "SUPER STREAM", "STREAM OR SUPER STREAM"
"""Kinds of names that a broker has."""
_NAMED = {
    **dict.fromkeys(("publish", "consume", "stream info", "stream delete"), STREAM),
    **dict.fromkeys((f"offset {verb}" for verb in ("store", "query", "resolve", "list", "reset")), STREAM),
    **dict.fromkeys(
        (f"superstream {verb}" for verb in ("publish", "consume", "info", "delete", "route")), SUPER_STREAM
    ),
    **dict.fromkeys(("sac-consume", "lag"), EITHER),
}
"""Commands whose first argument names what is there already."""


class Candidate(NamedTuple):
    """A word, and what it is."""

    word: str
    help: str = ""
    is_name: bool = False
    """Whether somebody else has chosen the word: it may hold what a shell would act upon."""


class Candidates(NamedTuple):
    """What may stand at the cursor."""

    words: list[Candidate]
    wants_file: bool = False


Names = Mapping[str, Callable[[Mapping[str, str]], Sequence[str]]]
"""What finds the names for a parameter, by its metavar without brackets, or by the kind of what a broker has.

It is only called when they are wanted, with the values of the options by the names of their parameters."""


def answer(root: Any, shell: str, arguments: Sequence[str], names: Names) -> tuple[str, int]:
    """The text for a shell's script, and the exit code. An unknown shell gets nothing."""
    if shell not in _SHELLS:
        return "", 0
    read, show = _SHELLS[shell]
    words, typed = read(arguments)
    found = candidates(root, words, names)
    if found.wants_file:
        return "", FILES
    return "".join(f"{line}\n" for line in show(found.words, typed)), 0


def candidates(root: Any, words: Sequence[str], names: Names) -> Candidates:
    """What may stand in the place of the last word; the others, without the program's name, are before it."""
    *before, word = words
    context = typer.Context(root, info_name=PROGRAM, help_option_names=["-h", "--help"])
    command, at = root, 0
    while isinstance(command, LazyGroup) and at < len(before):
        name, at = before[at], at + 1
        child = None if name.startswith("-") else command.get_command(context, name)
        if child is not None:
            command = child
            context = typer.Context(command, parent=context, info_name=name)
        elif not name.startswith("-"):
            return Candidates([])
    return _in_command(command, context, before[at:], word, names)


def _in_command(command: Any, context: Any, before: Sequence[str], word: str, names: Names) -> Candidates:
    parameters = [parameter for parameter in command.get_params(context) if not parameter.hidden]
    options = [parameter for parameter in parameters if parameter.param_type_name == "option"]
    by_name = {name: option for option in options for name in (*option.opts, *option.secondary_opts)}
    given: set[str] = set()
    values: dict[str, str] = {}
    positional, waiting, only_arguments = 0, None, False
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
            if not takes_value(option):
                _set(values, option, "no" if name in option.secondary_opts else "yes")
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
                Candidates([])
                if option is None or not takes_value(option)
                else _values(option, value, f"{name}=", find)
            )
        return Candidates(list(_option_names(options, given, word)))
    if isinstance(command, LazyGroup):
        return Candidates([Candidate(*row) for row in command.summaries(context) if row[0].startswith(word)])
    arguments = [parameter for parameter in parameters if parameter.param_type_name == "argument"]
    if not arguments or (positional >= len(arguments) and arguments[-1].nargs != -1):
        return Candidates([])
    argument = arguments[min(positional, len(arguments) - 1)]
    named = _NAMED.get(context.command_path.partition(" ")[2])
    if named in find and argument is arguments[0]:
        taken = set(before)
        may_begin = () if only_arguments else ("-",)  # which would be an option
        return Candidates(
            [
                Candidate(name, is_name=True)
                for name in find[named]()
                if name.startswith(word) and name not in taken and not name.startswith(may_begin)
            ]
        )
    return _values(argument, word, "", find)


def _set(values: dict[str, str], option: Any, text: str) -> None:
    """Notes the value of an option; several of one option are lines."""
    before = f"{values[option.name]}\n" if option.multiple and option.name in values else ""
    values[option.name] = before + text


def _values(parameter: Any, text: str, before: str, names: Mapping[str, Callable[[], Sequence[str]]]) -> Candidates:
    """What a parameter takes; ``before`` is what stands before the value in the same word."""
    kind = kind_of(parameter)
    if "--stream" in parameter.opts and STREAM in names:
        return Candidates([Candidate(before + name, is_name=True) for name in names[STREAM]() if name.startswith(text)])
    words: Sequence[str] = ()
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        words = [str(member.value) for member in kind]
    elif find := names.get((parameter.metavar or "").strip("[]")):
        words = find()
    else:
        words = next((_WORDS[name] for name in parameter.opts if name in _WORDS), ())
    found = [Candidate(before + word) for word in words if word.startswith(text)]
    return Candidates(found, not words and parameter.metavar in _FILE_METAVARS)


def _option_names(options: Sequence[Any], given: set[str], word: str) -> Iterator[Candidate]:
    """The names of options that may yet be given: the long ones, and where a short one is typed, that."""
    for option in options:
        names = (*option.opts, *option.secondary_opts)
        if given.intersection(names) and not (option.multiple or option.count):
            continue
        for name in names:
            if name.startswith(word) and (name.startswith("--") or name == word):
                yield Candidate(name, help_of(option))


# --- bash ----------------------------------------------------------------------------------------------------

# $2 is what bash will replace: what is behind the last of the break characters, which COMP_WORDS has as words.
_BASH = """\
_rstream_completion() {
    local line reply
    reply=$(_RSTREAM_COMPLETE=bash "$1" "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null)
    if [[ $? == 3 ]]; then
        compopt -o default
        return
    fi
    COMPREPLY=()
    while IFS= read -r line; do
        [[ -n $line ]] && COMPREPLY+=("$line")
    done <<<"$reply"
}

complete -F _rstream_completion rstream
"""


class Typed(NamedTuple):
    """The word at the cursor as it stands in the line, and what of it bash will replace."""

    raw: str = ""
    replaced: str = ""


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
    raw, replaced = typed
    is_quoted = any(mark in re.sub(r"\\.", "", raw) for mark in "'\"`$")
    if is_quoted:
        raw, replaced = (re.sub(r"[\"']", "", text) for text in typed)
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

_ZSH = """\
#compdef rstream

_rstream() {
    local reply
    local -a lines
    reply=$(_RSTREAM_COMPLETE=zsh "${words[1]}" "${(@Q)words[2,CURRENT]}" 2>/dev/null)
    if (( $? == 3 )); then
        compset -P '--*='
        _files
        return
    fi
    [[ -n $reply ]] || return 1
    lines=("${(@f)reply}")
    _describe rstream lines
}

if [[ $funcstack[1] == _rstream ]]; then
    _rstream "$@"
else
    compdef _rstream rstream
fi
"""

_FISH = """\
function __rstream_complete
    set -l tokens (commandline -opc) (commandline -ct)
    set -l reply (_RSTREAM_COMPLETE=fish command $tokens[1] $tokens[2..-1] 2>/dev/null)
    if test $status -eq 3
        set -l before (string match -r -- '^--[^=]*=' $tokens[-1]; or echo)
        for path in (__fish_complete_path (string replace -- "$before" '' $tokens[-1]))
            echo -- $before$path
        end
    else
        printf '%s\\n' $reply
    end
end

complete -c rstream -f -a '(__rstream_complete)'
"""


def _read_words(arguments: Sequence[str]) -> tuple[list[str], Typed]:
    return list(arguments) or [""], Typed()


def _show_zsh(found: Sequence[Candidate], _: Typed) -> list[str]:
    """Of ``_describe``: a colon stands before the help. It is data, so that nothing in it is lost or run."""
    return [f"{_escaped(word)}:{_escaped(text)}" if text else _escaped(word) for word, text, _ in found]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace(":", "\\:")


def _show_fish(found: Sequence[Candidate], _: Typed) -> list[str]:
    return [f"{word}\t{text}" if text else word for word, text, _ in found]


_Reader = Callable[[Sequence[str]], tuple[list[str], Typed]]
_Writer = Callable[[Sequence[Candidate], Typed], list[str]]
_SHELLS: dict[str, tuple[_Reader, _Writer]] = {
    "bash": (_read_bash, _show_bash),
    "zsh": (_read_words, _show_zsh),
    "fish": (_read_words, _show_fish),
}
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
"""By the shell."""
