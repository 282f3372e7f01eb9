"""The stored form of one event: columns of the entries table, and back.

Number, time, event and path are columns of their own, for filters; the rest is one line of ASCII
JSON, the body, whose stored bytes are what the chain hashes. Texts are cut to a cap here, in the
writer's thread, so that no caller can bloat the log.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from gateway.audit.errors import AuditError
from gateway.audit.events import (
    SCHEMA_VERSION,
    VOCABULARY,
    Actor,
    Event,
    Offered,
    Record,
    Scalar,
    is_utf8,
    show_name,
)

MAX_PATH: Final = 4096
"""Bytes of a path that are kept: PATH_MAX of Linux, the longest that one system call can name."""

MAX_TEXT: Final = 1024
"""Characters kept of each text in an entry (a scope that holds a path is the longest in use)."""

_dump = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def encode_body(
    event: Event,
    outcome: str,
    subject: str | None,
    actor: Actor | None,
    path: bytes | None,
    grant: str | None,
    detail: Offered | None,
) -> tuple[bytes | None, str]:
    """(path, body) as they are stored. What is None is left out of the body."""
    body: dict[str, Any] = {"v": SCHEMA_VERSION, "outcome": outcome}
    if subject is not None:
        body["subject"] = _text(subject)
    if actor is not None:
        body["actor"] = [actor.pid, actor.uid, actor.exe and _text(actor.exe)]
    if grant is not None:
        body["grant"] = _text(grant)
    if path is not None and len(path) > MAX_PATH:
        body["path_length"] = len(path)
        path = path[:MAX_PATH]
    if detail:
        body["detail"] = {key: _value(value) for key, value in detail.items()}
    return path, _dump(body)


def decode(seq: int, time: int, event: str, path: bytes | None, body: str) -> Record:
    """The record of a stored entry. Raises AuditError if it is not one that this version wrote."""
    try:
        known = Event(event)
        fields: dict[str, Any] = json.loads(body)
        version = fields["v"]
        if version > SCHEMA_VERSION:
            raise AuditError(
                f"entry {seq} was written by a newer grantfs", "use the version that wrote the log"
            )
        actor = fields.get("actor")
        detail = _details(known, fields.get("detail") or {})
        if "path_length" in fields:
            detail["path_length"] = fields["path_length"]
        return Record(
            seq=seq,
            time=time,
            event=known,
            outcome=fields["outcome"],
            subject=fields.get("subject"),
            actor=None if actor is None else Actor(*actor),
            raw_path=path,
            grant=fields.get("grant"),
            detail=detail,
            version=version,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise AuditError(
            f"entry {seq} of the log can't be read ({error})",
            "`grantfs audit verify` says if it was changed; a newer grantfs may have written it",
        ) from error


def _details(event: Event, stored: Mapping[str, Scalar]) -> dict[str, Scalar]:
    names = VOCABULARY[event].fields
    shown: dict[str, Scalar] = {}
    for key, value in stored.items():
        if names.get(key) is bytes and isinstance(value, str):
            name = value.encode("utf-8", "surrogateescape")
            shown[key] = show_name(name)
            if not is_utf8(name):
                shown[f"{key}_hex"] = name.hex()
        else:
            shown[key] = value
    return shown


def _value(value: str | int | bool | bytes | None) -> Scalar:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bytes):
        # ASCII JSON writes the surrogates as \udcNN, so the body stays ASCII and the name exact.
        return value[:MAX_PATH].decode("utf-8", "surrogateescape")
    return value


def _text(text: str) -> str:
    """At most MAX_TEXT characters, with no lone surrogates, which no output could encode."""
    if len(text) > MAX_TEXT:
        text = text[: MAX_TEXT - 1] + "…"
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
