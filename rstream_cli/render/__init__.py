"""What a run shows of itself on stderr while it goes, and when it ends.

``stats`` counts, ``display`` decides what is shown and when, and ``live``, ``line`` and ``json_lines`` show it.
"""
