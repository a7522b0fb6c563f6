"""``rstream completion``: prints scripts with which shells complete the words of ``rstream`` commands.

The scripts are Typer's. They call the program back for each completion, so they need no update when options
change; completions/ holds copies of them.
"""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from rstream_cli.typer_support import COMPLETE_VARIABLE, PROGRAM, Command, environment_of

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Shell(enum.StrEnum):
    """The shells that Typer writes scripts for. Of these scripts, bash's has been run in its shell."""

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
    """Returns the script that completes ``rstream`` in this shell. It ends with a newline."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # re-exported

    script: str = get_completion_script(prog_name=PROGRAM, complete_var=COMPLETE_VARIABLE, shell=shell.value)
    return script.rstrip("\n") + "\n"
