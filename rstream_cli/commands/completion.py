"""``rstream completion``: prints scripts with which shells complete the words of ``rstream`` commands.

They call the program back for each completion, so they need no update when options change; completions/ holds copies
of them.
"""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from rstream_cli.completion_scripts import SCRIPTS
from rstream_cli.typer_support import Command, environment_of

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Shell(enum.StrEnum):
    """The shells that there are scripts for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@app.command(
    cls=Command,
    epilog="""
source <(rstream completion bash)
rstream completion zsh > ~/.zfunc/_rstream
rstream completion fish > ~/.config/fish/completions/rstream.fish
""",
)
def completion(
    ctx: typer.Context,
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> None:
    """Print the completion script for a shell."""
    environment_of(ctx).stdout.write(completion_script(shell))


def completion_script(shell: Shell) -> str:
    """The script that completes ``rstream`` in this shell, ending in a newline."""
    return SCRIPTS[shell]
