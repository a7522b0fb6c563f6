"""Hints on what to do about an error. An error carries a member of ``Hint``, whose value is the text.

The texts are for Python programs, and name Python arguments. A program with other names for those, such as a command
line, looks up its own text for the member.
"""

from __future__ import annotations

import enum


class Hint(enum.StrEnum):
    """What may be done about an error; ``str()`` of a member is a sentence."""

    LOAD_BALANCER = "pass load_balancer_mode=True, or set stream.advertised_host on the broker"
    BALANCER_SPREADS = "does the load balancer spread connections over all nodes?"
    TRUST = "pass an ssl_context with the authority that signed it, or a server_name if it names another host"
    IS_IT_THE_TLS_PORT = "is this the broker's TLS port (5551 by default)?"
    IS_IT_THE_STREAM_PORT = "is this a RabbitMQ stream port (5552 by default)?"
    STREAM_PORT = "the stream port is 5552 by default"
    USE_TLS = "pass an ssl_context for this port"
    IS_IT_A_TLS_PORT = "is it a TLS port? pass an ssl_context for it"
    IS_IT_RUNNING = "is the broker running there?"
    IS_ITS_DISK_FULL = "is its disk full? rabbitmq-diagnostics alarms tells"
    DOES_ANOTHER_STORE = "does another program store under this name?"
    NAME_THE_STREAM = "the context of a message or of a turn has the stream"
    NO_SUB_ENTRY = "use send_batch, or a producer without an extractor"
    INSTALL_UAMQP = "install the extra rstream-cli[uamqp]: x86-64, Python 3.13 and older"
    FOLDER_IS_USED = "stop it, or choose another folder"
    PORT_IS_USED = "is another broker running there? choose another port"
    NOT_OF_THIS_MACHINE = "it is no address of this machine; 0.0.0.0 is all of them"
    PORT_IS_RESERVED = "this user may not listen there; choose a port above 1023"
