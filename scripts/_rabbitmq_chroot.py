"""RabbitMQ in a Debian tree, for machines without container engine and server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from _debian import MOUNT, Recipe, in_namespace
from _debian import ensure_tree as ensure
from _machine import Trouble

# Where a broker's runtime directory appears inside the tree.
STATE_MOUNT = "/srv/rstream"

_RECIPE = Recipe(
    "rabbitmq", "with RabbitMQ", packages=("rabbitmq-server",), finish=(("mkdir", "--parents", STATE_MOUNT),)
)
_RUN = MOUNT + (
    f'; mount --bind "$2" "$1{STATE_MOUNT}"'
    '; mount --bind "$2/hosts" "$1/etc/hosts"'
    '; mount --bind "$2/tmp" "$1/tmp"'
    '; root=$1; shift 2; exec chroot --userspec=rabbitmq:rabbitmq "$root" "$@"'
)


def ensure_tree(release: str) -> Path:
    """Return the tree of that Debian release, building it first if it is not cached."""
    return ensure(_RECIPE, release)


def run_command(tree: Path, state: Path, command: Sequence[str]) -> list[str]:
    """The command line that runs a command as the tree's rabbitmq user, the broker's directory mounted."""
    return [*in_namespace(_RUN), str(tree), str(state), *command]


def rabbitmq_ids(tree: Path) -> tuple[int, int]:
    """The user and group id of the tree's rabbitmq user."""
    for line in (tree / "etc/passwd").read_text().splitlines():
        fields = line.split(":")
        if fields[0] == "rabbitmq":
            return int(fields[2]), int(fields[3])
    raise Trouble(f"{tree} has no rabbitmq user")
