"""Connections to the nodes of a cluster: opened, shared, lost, and opened again."""
