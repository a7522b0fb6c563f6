"""Prints the version without importing the core, which would load asyncio and ssl for one line."""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing takes longer than this whole module
if TYPE_CHECKING:
    from typing import TextIO


def print_version(out: TextIO) -> None:
    """Prints the program's name and version."""
    out.write(f"rstream {program_version()}\n")


def program_version() -> str:
    """Returns the version of the installed package. Loads only rstream_core/version.py."""
    from importlib.util import find_spec, module_from_spec, spec_from_file_location

    package = find_spec("rstream_core")
    for folder in package.submodule_search_locations or () if package else ():
        spec = spec_from_file_location("rstream_core.version", f"{folder}/version.py")
        if spec is not None and spec.loader is not None:
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            return str(module.__version__)
    raise ImportError("rstream_core is not installed")
