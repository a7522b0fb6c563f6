"""Measures this project beside a bare socket and beside other clients: ``python -m benchmarks --help``.

Every contender is a program of its own that does one task and prints what it did; ``rounds`` runs them in turns and
compares. docs/benchmarks.md says what is measured and how to read it.
"""
