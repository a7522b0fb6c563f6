"""Dumps: the chunks of streams in a file, as a broker has delivered them. Without I/O. docs/dump.md has the layout."""
