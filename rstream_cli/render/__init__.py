"""Shows the statistics of a run on stderr, during the run and at its end.

``stats`` counts, ``display`` decides what is shown and when, and ``live``, ``line`` and ``json_lines`` show it.
"""
