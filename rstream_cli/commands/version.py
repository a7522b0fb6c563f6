"""``rstream version``: prints the versions that a bug report should name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rstream_cli.environment import PrettyChoice
from rstream_cli.options.answering import Pretty
from rstream_cli.pretty_json import write_answer
from rstream_cli.typer_support import Command, environment_of

if TYPE_CHECKING:
    from rstream_core.protocol.wire_choice import Choice

app = typer.Typer(add_completion=False, rich_markup_mode=None)

LIBRARIES = ("cramjam", "mmh3", "orjson", "rich", "typer", "uamqp")
"""The libraries that rstream uses. uamqp is an extra."""


@app.command(
    cls=Command,
    epilog="""
rstream version
rstream version --json | jq -r .rstream
""",
)
def version(
    ctx: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    pretty: Pretty = PrettyChoice.AUTO,
) -> None:
    """Print the versions of rstream, Python and the libraries.

    `compiled` says whether messages pass through the compiled part of rstream, and if not, why: then the same is done
    in Python, more slowly.

    `rstream --version` prints the version of rstream alone.
    """
    env = environment_of(ctx)
    if json:
        choice = _choice()
        facts = {"used": choice.compiled is not None, "reason": choice.reason or None}
        record = {**_own_versions(), "compiled": facts, "libraries": _libraries()}
        write_answer(env, [record], pretty)
        return
    choice = _choice()
    compiled = "yes" if choice.compiled is not None else f"no: {choice.reason}"
    for name, value in {**_own_versions(), "compiled": compiled, **_libraries()}.items():
        env.stdout.write(f"{name} {value or 'is not installed'}\n")


def _own_versions() -> dict[str, str]:
    import platform

    from rstream_cli.version import program_version

    return {
        "rstream": program_version(),
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": platform.platform(),
    }


def _choice() -> Choice:
    from rstream_core.protocol.wire_choice import CHOICE

    return CHOICE


def _libraries() -> dict[str, str | None]:
    """Returns the versions of the libraries; None for one that is not installed."""
    import importlib.metadata

    found: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found
