"""Installs uamqp, with which the tests compare the AMQP codec, where it has a wheel for this machine. `make venv` does.

That it has none is no fault: its tests are skipped then. Whatever else keeps it from being installed is one, and is not
taken for that: pip says "no matching distribution" of an index, too, that it could not read.

Exit status: 0 installed, or there is no wheel; else that of pip.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

_UNREAD = re.compile(r"WARNING: Retrying|Could not fetch URL|Skipping link|SSLError|HTTP error", re.IGNORECASE)


def main() -> int:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install"]
    command += ["--only-binary", ":all:", "--require-hashes", "--requirement", "requirements/uamqp.txt"]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode == 0:
        return 0
    if has_no_wheel(done.stdout):
        print("uamqp has no wheel for this machine: its tests are skipped")
        return 0
    print(done.stdout, end="", file=sys.stderr)
    return done.returncode


def has_no_wheel(said: str) -> bool:
    """Whether that is why pip failed: it has read what there is, and nothing of it fits."""
    return "No matching distribution found for uamqp" in said and _UNREAD.search(said) is None


if __name__ == "__main__":
    sys.exit(main())
