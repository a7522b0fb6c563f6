"""Sources and sinks that only the program has: what it reads, and what it writes to."""
