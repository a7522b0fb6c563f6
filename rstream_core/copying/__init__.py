"""Copies streams: a stream as the source of a flow, another one as its sink. See ``copy`` for how a copy goes on."""
