"""Compares two streams message by message."""
