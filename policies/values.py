"""What a single value of a policy file may be: dates, ids, labels, profiles, lists of patterns.

The checks return the value as it came or raise ValueError with what it must be; `model` uses them.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

MAX_VALUES: Final = 1_000
"""Most values in one list of a match."""
RESERVED_ID_PREFIX: Final = "defaults."
"""Begins the names under which decisions report what no rule said; no rule may take one."""

_METHOD = re.compile(r"[A-Z][A-Z0-9_-]{0,31}")
_LABEL = re.compile(r"[a-z][a-z0-9-]{0,39}")
_PROFILE = re.compile(rf"{_LABEL.pattern}(?:\+{_LABEL.pattern}){{0,9}}")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


class MisplacedError(ValueError):
    """A value that is wrong beside another one; `key` is its place below the model that found
    it.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(reason)
        self.key = key


@dataclass(frozen=True, slots=True)
class Texts:
    """Field metadata: a list of strings, each found usable by `check`; alone, one needs no list."""

    check: Callable[[str], object]
    bare: bool = True
    least: int = 1

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.validate,
            serialization=core_schema.plain_serializer_function_ser_schema(self.written),
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        item = {"type": "string", "minLength": 1}
        many = {
            "type": "array",
            "items": item,
            "minItems": self.least,
            "maxItems": MAX_VALUES,
        }
        return {"anyOf": [item, many]} if self.bare else many

    def validate(self, value: object) -> tuple[str, ...]:
        if self.bare and isinstance(value, str):
            self.check(value)
            return (value,)
        if not isinstance(value, list | tuple):
            raise ValueError(f"must be {'a string or ' if self.bare else ''}a list of strings")
        if not self.least <= len(value) <= MAX_VALUES:
            raise ValueError(f"must hold {self.least} to {MAX_VALUES} values")
        for number, item in enumerate(value):
            if not isinstance(item, str):
                raise MisplacedError(f"[{number}]", "must be a string")
            try:
                self.check(item)
            except ValueError as error:
                raise MisplacedError(f"[{number}]", str(error)) from error
        return tuple(value)

    def written(self, values: tuple[str, ...] | None) -> str | list[str] | None:
        if values is None:
            return None
        return values[0] if self.bare and len(values) == 1 else list(values)


def check_text(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("must be printable text, in one line and not empty")
    if len(text) > 200:
        raise ValueError("is longer than 200 characters")
    return text


def check_date(text: str) -> str:
    if not _DATE.fullmatch(text):
        raise ValueError("must be a date, as in 2026-01-01")
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        raise ValueError("is not a date of the calendar") from None
    return text


def check_id(text: str) -> str:
    if text.startswith(RESERVED_ID_PREFIX):
        raise ValueError(f"may not begin with {RESERVED_ID_PREFIX}, which names what no rule said")
    return check_text(text)


def check_reason(text: str) -> str:
    if not text.strip() or not text.isprintable() or len(text) > 500:
        raise ValueError("must be printable text in one line, of at most 500 characters")
    return text


def check_profile(text: str) -> str:
    if not _PROFILE.fullmatch(text):
        raise ValueError("must be a redaction profile, as in secrets or secrets+pii")
    if "none" in text.split("+"):
        raise ValueError("policy can only add redaction; leave the key out to add none")
    return text


def check_label(text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise ValueError("must be a label of small letters, digits and hyphens")
    return text


def check_method(text: str) -> None:
    if not _METHOD.fullmatch(text):
        raise ValueError("must be an HTTP method in capitals, as in POST")
