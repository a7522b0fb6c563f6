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
    IS_IT_THE_TLS_PORT = "the TLS port is 5551 by default; pass no ssl_context for a port without TLS, such as 5552"
    IS_IT_THE_STREAM_PORT = "is this a RabbitMQ stream port (5552 by default)?"
    STREAM_PORT = "the stream port is 5552 by default"
    USE_TLS = "pass an ssl_context for this port"
    IS_IT_A_TLS_PORT = "is it a TLS port? pass an ssl_context for it"
    IS_IT_RUNNING = "is the broker running there, with its stream plugin? the stream port is 5552 by default"
    IS_IT_RUNNING_WITH_TLS = (
        "does the broker listen there with TLS? by default, the port is 5551 with TLS, and 5552 without"
    )
    LOGIN_TOO_LARGE = (
        "the password, or token, is too large: RabbitMQ 4.3.5 and later accept at most 8,192 bytes from a client that"
        " is not logged in; use a token with fewer claims or scopes"
    )
    USE_PLAIN_FOR_TOKENS = "RabbitMQ takes a token as the password of PLAIN: leave out the mechanism"
    IS_IT_VALID_HERE = "has it expired? is it signed with a key that the broker knows, and meant for it?"
    WHOSE_CERTIFICATE = (
        "the broker takes the user's name from the certificate (ssl_cert_login_from); `rabbitmqctl list_users` shows"
        " the users"
    )
    IS_THERE_A_FIREWALL = "does a firewall block this port?"
    AMQP_PORT = "this port is for AMQP by default; the stream port is 5552, or 5551 with TLS"
    MANAGEMENT_PORT = "this port is for the management pages by default; the stream port is 5552, or 5551 with TLS"
    OTHER_PORT = "this port is for another protocol by default; the stream port is 5552, or 5551 with TLS"
    WRITE_THE_SCHEME = "write rabbitmq-stream:// before the host, or rabbitmq-stream+tls:// for TLS"
    AMQP_URI = "this is an address for AMQP; write rabbitmq-stream://HOST:5552, or rabbitmq-stream+tls://HOST:5551"
    MANAGEMENT_URI = "this is the address of the management pages; write rabbitmq-stream://HOST:5552, or rabbitmq-stream+tls://HOST:5551"
    IS_ITS_DISK_FULL = "is its disk full? `rabbitmq-diagnostics alarms` shows it"
    DOES_ANOTHER_STORE = "does another program store under this name?"
    NAME_THE_STREAM = "pass the stream, which the context of the message or turn holds"
    NAME_THE_PARTITIONS = "pass offsets={partition: ConsumerOffsetSpecification(...)}, or another offset type"
    NO_SUB_ENTRY = "use send_batch, or a producer without an extractor"
    INSTALL_UAMQP = "install the extra rstream-cli[uamqp]: x86-64, Python 3.13 and older"
    FRAME_LIMIT = "send less at once, or raise frame_max here and stream.frame_max on the broker"
    UNPACK_ZSTD = "it was compressed by another program: unpack it with `zstd -d`"
    FOLDER_IS_USED = "stop it, or choose another folder"
    PORT_IS_USED = "is another broker running there? choose another port"
    NOT_OF_THIS_MACHINE = "this machine does not have that address; 0.0.0.0 listens on all of its addresses"
    PORT_IS_RESERVED = "only a privileged user may listen there; choose a port above 1023"
    COPY_APPENDS = "copy to an empty stream; append=True copies behind what is there"
    COPY_GOES_ON = "leave the offset out to go on with that copy; append=True copies behind what is there"
    COPY_OF_ANOTHER = "copy to another stream; or pass another name, and append=True"
    COPY_BY_KEY = "pass routing keys for a target with other partitions"
