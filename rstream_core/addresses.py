"""What an address says of a machine. In no module that all commands import: ``ipaddress`` takes its time."""

from __future__ import annotations

import ipaddress


def is_loopback(address: str) -> bool:
    """Returns whether only this machine can reach the address."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback
