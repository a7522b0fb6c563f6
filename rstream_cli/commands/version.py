"""``rstream version``: prints the versions that a bug report should name."""

from __future__ import annotations

from typing import Annotated

import typer

from rstream_cli import terminal
from rstream_cli.typer_support import Command, environment_of

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
) -> None:
    """Print the versions of rstream, Python and the libraries.

    `rstream --version` prints the version of rstream alone.
    """
    env = environment_of(ctx)
    if json:
        import orjson

        text = orjson.dumps({**_own_versions(), "libraries": _libraries()}).decode() + "\n"
        terminal.write_json(env.stdout, text, is_tty=env.stdout_is_tty)
        return
    for name, value in {**_own_versions(), **_libraries()}.items():
        env.stdout.write(f"{name} {value or 'is not installed'}\n")


def _own_versions() -> dict[str, str]:
    import platform

    from rstream_cli.version import program_version

    return {
        "rstream": program_version(),
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": platform.platform(),
    }


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
