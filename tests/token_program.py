"""Makes tokens; as a program, prints one: ``[KEY.pem] SECONDS``.

A run of the command line starts it for each token, so it imports nothing that takes time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import sys
import time

KEY = b"a key that only tests have, of 42 bytes..."


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(claims: object, key: bytes = KEY, head: dict[str, str] | None = None) -> str:
    """A token of these claims, signed with HS256."""
    start = ".".join(encoded(json.dumps(part).encode()) for part in (head or {"alg": "HS256"}, claims))
    return f"{start}.{encoded(hmac.digest(key, start.encode(), hashlib.sha256))}"


def claims_for(seconds: float) -> dict[str, object]:
    scope = " ".join(f"rabbitmq.{right}:*/*" for right in ("read", "write", "configure"))
    return {"sub": "alice", "aud": "rabbitmq", "exp": time.time() + seconds, "scope": scope}


def signed_by_rsa(key: str, seconds: float) -> str:
    """A token of so many seconds, signed with RS256. RabbitMQ takes whole seconds."""
    claims = claims_for(seconds)
    claims["exp"] = round(time.time() + seconds)
    head = {"alg": "RS256", "typ": "JWT", "kid": "tests"}
    start = ".".join(encoded(json.dumps(part).encode()) for part in (head, claims))
    return f"{start}.{encoded(openssl('dgst', '-sha256', '-sign', key, stdin=start.encode()))}"


def openssl(*arguments: str, stdin: bytes = b"") -> bytes:
    """What the openssl command prints."""
    done = subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


if __name__ == "__main__":
    *keys, lifetime = sys.argv[1:]
    print(signed_by_rsa(keys[0], float(lifetime)) if keys else signed(claims_for(float(lifetime))))
