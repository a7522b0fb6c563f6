"""The error of a management API that cannot be had."""

from __future__ import annotations

from rstream_core.errors import ConnectionFailed


class ManagementUnavailable(ConnectionFailed):
    """The management API, or the part of it that was asked for, cannot be had: it is off, elsewhere, or too slow.

    Other errors of the API are the core's: ``HostNotFound``, ``TlsError``, ``AuthenticationFailure``,
    ``AccessRefused``, ``VirtualHostAccessFailure``, ``StreamDoesNotExist``, and ``ProtocolError`` for answers that are
    not this API's.
    """

    retriable = False
