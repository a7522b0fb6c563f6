"""The response codes, and the exception with which a handler answers a request with one of them."""

from __future__ import annotations

OK = 1
NO_SUCH_STREAM = 2
SUBSCRIPTION_ID_EXISTS = 3
NO_SUCH_SUBSCRIPTION = 4
STREAM_EXISTS = 5
STREAM_NOT_AVAILABLE = 6
MECHANISM_NOT_SUPPORTED = 7
AUTHENTICATION_FAILURE = 8
SASL_ERROR = 9
LOOPBACK_ONLY = 11
VHOST_ACCESS_FAILURE = 12
UNKNOWN_FRAME = 13
FRAME_TOO_LARGE = 14
INTERNAL_ERROR = 15
PRECONDITION_FAILED = 17
NO_SUCH_PUBLISHER = 18
NO_OFFSET = 19
CANNOT_CHANGE_MECHANISM = 20
CANNOT_CHANGE_USERNAME = 21


class Refused(Exception):
    """A refusal of a request: ``code`` goes to the client, the message to the log."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code
