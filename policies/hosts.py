"""Host names and host patterns of policy, in one canonical form.

A host is lower-case ASCII without a port, without the dot at its end; an address is written as
Python's `ipaddress` writes it, an IPv4 address mapped into IPv6 as the IPv4 address. Forms that a
resolver might take for an address although they do not look like one (`0x7f.1`, `127.1`) are
refused.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from policies.paths import PatternError

ANY_HOST = "*"

_LABEL_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


def canonical_host(host: str) -> str:
    """The one form in which hosts are compared. Raises PatternError for what is not a host."""
    text = _lower(host)
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if "%" not in bare:
        try:
            address = ipaddress.ip_address(bare)
        except ValueError:
            pass
        else:
            mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
            return str(mapped or address)
    name = text.removesuffix(".")
    _check_name(name)
    return name


def host_pattern(text: str) -> str:
    """A `host` of a rule: a host, `*.example.com` (everything below, at any depth) or `*`.

    Raises PatternError.
    """
    if text == ANY_HOST:
        return text
    if text.startswith("*."):
        name = _lower(text[2:]).removesuffix(".")
        _check_name(name)
        return f"*.{name}"
    return canonical_host(text)


def host_matches(pattern: str, host: str) -> bool:
    """Whether a canonical host falls under a pattern made by `host_pattern`.

    `*.example.com` does not match `example.com` itself.
    """
    if pattern == ANY_HOST:
        return True
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return host == pattern


def common_hosts(left: Iterable[str], right: Iterable[str]) -> frozenset[str]:
    """The patterns for exactly those hosts that fall under both sides.

    Exact, because of two patterns either one contains the other or nothing falls under both.
    """
    ours, theirs = frozenset(left), frozenset(right)
    return frozenset(p for p in ours if any(_contains(q, p) for q in theirs)) | frozenset(
        q for q in theirs if any(_contains(p, q) for p in ours)
    )


def _contains(outer: str, inner: str) -> bool:
    return outer == inner or (
        outer == ANY_HOST or (outer.startswith("*.") and inner.endswith(outer[1:]))
    )


def _lower(text: str) -> str:
    # Checked before lowering, which turns some foreign letters (the Kelvin sign) into ASCII ones.
    if not text.isascii():
        raise PatternError("must be written in ASCII (the xn-- form)")
    return text.lower()


def _check_name(name: str) -> None:
    if ":" in name or "/" in name:
        raise PatternError("must be a host alone, without a scheme, port or path")
    if "*" in name:
        raise PatternError("takes a * only as the whole of it or in front, as in *.example.com")
    labels = name.split(".")
    if len(name) > 253 or any(
        not 1 <= len(label) <= 63 or not _LABEL_CHARACTERS.issuperset(label) for label in labels
    ):
        raise PatternError("is not a host name")
    last = labels[-1]
    if last.isdigit() or last.startswith("0x"):
        raise PatternError("is neither a host name nor an address in its usual form")
