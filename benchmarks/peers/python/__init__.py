"""The published Python client."""
