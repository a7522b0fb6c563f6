"""What ``rstream bench`` is made of: load, the processes that make it, what is measured, and how that is compared."""
