"""Asks a person whether to go on with what cannot be undone."""

from __future__ import annotations

from rstream_cli import terminal
from rstream_cli.environment import Environment
from rstream_cli.exit_status import CommandError


def is_confirmed(question: str, env: Environment, *, action: str = "delete") -> bool:
    """Asks on the terminal whether to do what ``action`` names. Raises a usage error where there is no terminal."""
    if not (env.stdin_is_tty and env.stderr_is_tty):
        raise CommandError(
            f"cannot ask whether to {action}: there is no terminal", hint=f"pass --yes to {action} without a question"
        )
    env.stderr.write(terminal.line(f"{question} [y/N] "))
    env.stderr.flush()
    try:
        answer = env.stdin.readline()
    except KeyboardInterrupt:
        env.stderr.write("\n")
        raise
    if not answer.endswith("\n"):  # the end of the input
        env.stderr.write("\n")
    return answer.strip().lower() in ("y", "yes")
