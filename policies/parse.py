"""From the bytes of a policy file to a document, or to one error that names the place.

Nothing but PolicyError comes out, whatever goes in.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NoReturn

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from policies.model import PolicyDocument
from policies.values import MisplacedError

MAX_FILE_BYTES = 1 << 20
"""Largest policy file, in bytes; ten thousand plain rules fit."""

_REASONS = {
    "extra_forbidden": "is not a key of this place",
    "missing": "is missing",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "string_type": "must be a string",
    "string_unicode": "is not valid Unicode",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "dict_type": "must be an object",
    "tuple_type": "must be a list",
    "too_long": "holds too many values",
}


class PolicyError(Exception):
    """A policy that cannot be used.

    `file` is what was read (a path for the user's eyes), `where` the place in it
    (`rules[2].match.pathGlob`, `line 3 column 7`, or empty for the file as a whole), `reason` what
    is wrong there. `hint` says what to do.
    """

    code = "policy"
    hint = "mend the file, and check it with: grantfs policy check FILE"

    def __init__(self, file: str, where: str, reason: str) -> None:
        super().__init__(file, where, reason)
        self.file = file
        self.where = where
        self.reason = reason

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.where, self.reason) if part)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object before duplicate keys have been looked for."""


def parse_policy(data: bytes, file: str) -> PolicyDocument:
    """Reads one policy file. `file` is only for messages. Raises PolicyError."""
    if len(data) > MAX_FILE_BYTES:
        raise PolicyError(file, "", f"is larger than {MAX_FILE_BYTES} bytes")
    try:
        tree = _plain(_json(data, file), "", file)
    except RecursionError:
        raise PolicyError(file, "", "is nested too deeply") from None
    if not isinstance(tree, dict):
        raise PolicyError(file, "", "must be a JSON object")
    try:
        return PolicyDocument.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise PolicyError(file, *_explain(first)) from None


def _json(data: bytes, file: str) -> Any:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PolicyError(file, f"line {line}", "is not UTF-8") from None

    def refuse(constant: str) -> NoReturn:
        raise PolicyError(file, "", f"{constant} is not a JSON value")

    try:
        return json.loads(text, object_pairs_hook=_Pairs, parse_constant=refuse)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise PolicyError(file, place, f"is not JSON: {error.msg}") from None
    except ValueError:  # a number of more digits than Python converts
        raise PolicyError(file, "", "holds a number that is far too long") from None


def _plain(value: Any, where: str, file: str) -> Any:
    """The value with objects as dicts; refuses duplicate keys and null, which could hide a rule."""
    if value is None:
        raise PolicyError(file, where, "is null; leave the key out instead")
    if isinstance(value, _Pairs):
        plain: dict[str, Any] = {}
        for key, item in value:
            place = _below(where, key)
            if key in plain:
                raise PolicyError(file, place, "stands twice in one object")
            plain[key] = _plain(item, place, file)
        return plain
    if isinstance(value, list):
        return [_plain(item, f"{where}[{number}]", file) for number, item in enumerate(value)]
    return value


def _explain(error: ErrorDetails) -> tuple[str, str]:
    where = ""
    for part in _location(error["loc"]):
        where = f"{where}[{part}]" if isinstance(part, int) else _below(where, part)
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, MisplacedError):
        where = where + cause.key if cause.key.startswith("[") else _below(where, cause.key)
    if isinstance(cause, ValueError):
        return where, str(cause)
    return where, _REASONS.get(error["type"]) or error["msg"].removeprefix("Input ")


def _location(loc: Sequence[int | str]) -> Sequence[int | str]:
    # The name of a key that nobody knows is the file's own text; it is shown, but bounded and
    # escaped.
    return [part if isinstance(part, int) else _shown(part) for part in loc]


def _below(where: str, key: str) -> str:
    return f"{where}.{_shown(key)}" if where else _shown(key)


def _shown(key: str) -> str:
    clean = key if key.isprintable() else ascii(key)[1:-1]
    return clean if len(clean) <= 60 else clean[:57] + "..."
