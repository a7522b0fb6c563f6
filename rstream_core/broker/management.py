"""The embedded broker's management API over HTTP: checks the login of a request, and words the answer in JSON.

``http_server`` serves it, for the clients of this project and for people with curl; ``listing`` knows the answers.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from rstream_core.broker import refusal
from rstream_core.broker.listing import BadRequest, Missing, Question, answer
from rstream_core.broker.session import ServerOptions, check_login
from rstream_core.broker.streams import Streams
from rstream_core.http_server import Answer, HttpServer, Request


class Management:
    """Answers the requests of all connections of ``server``."""

    def __init__(self, streams: Streams, options: ServerOptions, own_names: Iterable[str]) -> None:
        """``own_names`` are host names that the broker was given: clients may call it by them."""
        self._streams = streams
        self._options = options
        self.server = HttpServer(self._respond, _refuse, own_names, has_logins=True)

    def _respond(self, request: Request) -> Answer:
        login = request.fields.get("authorization", "")
        return _as_json(*self.answer(request.target, login, is_local=request.is_local))

    def answer(self, target: str, login: str, *, is_local: bool) -> tuple[HTTPStatus, Any]:
        """Returns status and content for a GET of ``target``. ``login`` is the header field ``authorization``."""
        if not login:
            return HTTPStatus.UNAUTHORIZED, None
        reason = self._refusal(login, is_local=is_local)
        if reason is not None:
            return HTTPStatus.UNAUTHORIZED, {"error": "not_authorised", "reason": reason}
        try:
            question = _question(target)
            return HTTPStatus.OK, answer(question, self._streams, self._options.vhosts)
        except Missing:
            return HTTPStatus.NOT_FOUND, {"error": "Object Not Found", "reason": "Not Found"}
        except (BadRequest, ValueError) as error:
            return HTTPStatus.BAD_REQUEST, {"error": "bad_request", "reason": str(error)}

    def _refusal(self, login: str, *, is_local: bool) -> str | None:
        scheme, _, value = login.partition(" ")
        try:
            text = base64.b64decode(value.strip(), validate=True).decode() if scheme.lower() == "basic" else ""
        except (binascii.Error, UnicodeDecodeError):
            text = ""
        username, colon, password = text.partition(":")
        code = check_login(self._options, username, password.encode(), is_local=is_local).code
        if colon and code == refusal.OK:
            return None
        return "User can only log in via localhost" if code == refusal.LOOPBACK_ONLY else "Not_Authorized"


def _question(target: str) -> Question:
    parts = urlsplit(target)
    root, *path = [unquote(segment, errors="strict") for segment in parts.path.removeprefix("/").split("/")]
    if root != "api":
        raise Missing
    return Question(path, dict(parse_qsl(parts.query, max_num_fields=20, errors="strict")))


def _as_json(status: HTTPStatus, content: Any) -> Answer:
    body = b"" if content is None else json.dumps(content, separators=(",", ":")).encode()
    fields = ('www-authenticate: Basic realm="rstream"',) if status is HTTPStatus.UNAUTHORIZED else ()
    return Answer(status, body, "application/json", fields)


def _refuse(status: HTTPStatus) -> Answer:
    return _as_json(status, {"error": status.phrase, "reason": status.phrase})
