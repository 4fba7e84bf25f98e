"""Whose request it is: the address of the connection, or what a trusted proxy says. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

FORWARDED_MAX = 64
"""Addresses of X-Forwarded-For that are looked at, from the right."""


def networks_of(texts: Sequence[str]) -> tuple[Network, ...]:
    """Networks such as 10.0.0.0/8, or single addresses. ValueError if a text is neither; the settings are checked."""
    return tuple(ip_network(each) for each in texts)


def address_of(text: str) -> Address | None:
    """An IP address as sockets and proxies write it: with a port, in brackets, mapped into IPv6. None if it is none."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def client_of(peer: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """The address of the client that asks, from that of the connection and the X-Forwarded-For headers.

    The header is read from the right, where the nearest proxy wrote: the first address that no trusted proxy has is the
    client's. What stands left of it anybody can have written. Without a trusted `peer` the header counts nothing. An
    entry that is no address ends the search: the proxy that wrote it stands for its clients.
    """
    found = address_of(peer or "")
    if found is None:
        return peer or "unknown"
    for text in reversed([each for header in forwarded for each in header.split(",")][-FORWARDED_MAX:]):
        if not any(found in each for each in trusted):
            break
        before = address_of(text)
        if before is None:
            break
        found = before
    return str(found)


def is_loopback(client: str) -> bool:
    """Whether a client is on this machine."""
    found = address_of(client)
    return found is not None and found.is_loopback
