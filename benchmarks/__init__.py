"""Measures this project beside a bare socket and beside the published client. Run by ``make bench``.

Every contender is a program of its own that does one task and prints what it did (``worker``); ``__main__`` runs
them in turns and compares. docs/benchmarks.md says what is measured and how to read it.
"""
