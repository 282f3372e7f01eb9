"""The hash chain over the entries, and what a checkpoint's signature covers.

An entry's hash is SHA-256 over the chain's format, the log's random id, the hash before it, and
every stored column of the entry, with lengths: so an entry fits one place of one log only, and no
two entries have the same bytes. The chain alone needs no key, so anyone can check it; what keeps
a rewriter from computing it anew is the signature over its head.

Pure functions; anyone may call them.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

FORMAT: Final = 1
"""The version of the bytes that are hashed and signed; it is part of both."""

LOG_ID_BYTES: Final = 16
HASH_BYTES: Final = 32

_ENTRY: Final = b"grantfs audit entry\0"
_GENESIS: Final = b"grantfs audit genesis\0"
_CHECKPOINT: Final = b"grantfs audit checkpoint\0"

# seq, time in µs, and the lengths of event, path (-1: none) and body
_HEAD: Final = struct.Struct(">QqIiI")
_FORMAT: Final = struct.Struct(">H")
_SIGNED: Final = struct.Struct(">Qq")

Link: TypeAlias = Callable[[bytes, int, int, bytes, bytes | None, bytes], bytes]


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain: the last entry's number (0: none yet) and its hash."""

    seq: int
    hash: bytes


def genesis(log_id: bytes) -> Head:
    """The head of the empty log with this id."""
    return Head(0, hashlib.sha256(_GENESIS + _FORMAT.pack(FORMAT) + log_id).digest())


def linker(log_id: bytes) -> Link:
    """The function (previous hash, seq, time, event, path, body) -> hash for one log.

    A closure over the hashed prefix, since it runs a million times in a verification.
    """
    fresh = hashlib.sha256(_ENTRY + _FORMAT.pack(FORMAT) + log_id).copy
    pack = _HEAD.pack

    def link(
        previous: bytes, seq: int, time: int, event: bytes, path: bytes | None, body: bytes
    ) -> bytes:
        state = fresh()
        if path is None:
            head = pack(seq, time, len(event), -1, len(body))
            state.update(b"".join((previous, head, event, body)))
        else:
            head = pack(seq, time, len(event), len(path), len(body))
            state.update(b"".join((previous, head, event, path, body)))
        return state.digest()

    return link


def checkpoint_message(log_id: bytes, head: Head, time: int) -> bytes:
    """The bytes that a checkpoint signs: the log, the head and when (µs since 1970 UTC)."""
    return _CHECKPOINT + _FORMAT.pack(FORMAT) + log_id + _SIGNED.pack(head.seq, time) + head.hash
