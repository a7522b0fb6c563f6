"""Carries messages from a source through stages to a sink, in blocks.

What publishes, consumes or copies is a plan: a source, stages, a gate and a sink, which ``run.Run`` drives. A source
hands out blocks of messages; a stage divides a block; a sink says when its messages are done with, and the source is
told. There is no signal, file descriptor or option here: programs use it, too.
"""
