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
    IS_IT_THE_TLS_PORT = "the TLS port is 5551 by default; on a plain one, such as 5552, pass no ssl_context"
    IS_IT_THE_STREAM_PORT = "is this a RabbitMQ stream port (5552 by default)?"
    STREAM_PORT = "the stream port is 5552 by default"
    USE_TLS = "pass an ssl_context for this port"
    IS_IT_A_TLS_PORT = "is it a TLS port? pass an ssl_context for it"
    IS_IT_RUNNING = "is the broker running there, with its stream plugin? the stream port is 5552 by default"
    IS_IT_RUNNING_WITH_TLS = (
        "does the broker listen there with TLS? its TLS port is 5551 by default, 5552 the plain one"
    )
    LOGIN_TOO_LARGE = (
        "the password, or token, is too large: since 4.3.5 RabbitMQ takes 8,192 bytes at most before a client is let"
        " in; a token with fewer claims or scopes is shorter"
    )
    WHOSE_CERTIFICATE = (
        "the broker takes the user's name from the certificate (ssl_cert_login_from); rabbitmqctl list_users tells"
        " which users there are"
    )
    IS_THERE_A_FIREWALL = "does a firewall stand between?"
    AMQP_PORT = "this is AMQP's port by default; the stream port is 5552, or 5551 with TLS"
    MANAGEMENT_PORT = "this is the port of the management pages by default; the stream port is 5552, or 5551 with TLS"
    OTHER_PORT = "RabbitMQ has another protocol on this port by default; the stream port is 5552, or 5551 with TLS"
    WRITE_THE_SCHEME = "write rabbitmq-stream:// before the host, or rabbitmq-stream+tls:// for TLS"
    AMQP_URI = "streams have a port of their own: rabbitmq-stream://HOST:5552, or rabbitmq-stream+tls://HOST:5551"
    MANAGEMENT_URI = "that is the management's: rabbitmq-stream://HOST:5552, or rabbitmq-stream+tls://HOST:5551"
    IS_ITS_DISK_FULL = "is its disk full? rabbitmq-diagnostics alarms tells"
    DOES_ANOTHER_STORE = "does another program store under this name?"
    NAME_THE_STREAM = "the context of a message or of a turn has the stream"
    NO_SUB_ENTRY = "use send_batch, or a producer without an extractor"
    INSTALL_UAMQP = "install the extra rstream-cli[uamqp]: x86-64, Python 3.13 and older"
    FOLDER_IS_USED = "stop it, or choose another folder"
    PORT_IS_USED = "is another broker running there? choose another port"
    NOT_OF_THIS_MACHINE = "it is no address of this machine; 0.0.0.0 is all of them"
    PORT_IS_RESERVED = "this user may not listen there; choose a port above 1023"
