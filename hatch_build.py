"""Makes the README's links absolute in what is built: where a package is shown, its neighbours are not.

The one setting, ``links``, is in pyproject.toml.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_BLOCK = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<=\]\()(?![a-z][a-z0-9+.-]*:|[#/])(?=[^)\s])")


class ReadmeHook(MetadataHookInterface):
    """Gives the project its ``readme``."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, self.config.get("links", ""))}


def absolute(text: str, links: str) -> str:
    """Puts ``links`` before each relative target, outside of code blocks; an empty one changes nothing.

    Raises ``ValueError`` where it is not an https address that ends with a slash.
    """
    if not links:
        return text
    if not re.fullmatch(r"https://[^\s()]+/", links):
        raise ValueError(f"tool.hatch.metadata.hooks.custom.links: {links!r} is not https://.../, with a / at the end")
    parts = _BLOCK.split(text)
    parts[::2] = [_LINK.sub(lambda _: links, part) for part in parts[::2]]
    return "".join(parts)
