"""Rule packs: what counts as a secret, as data.

A pack is a JSON file (`docs/rule-packs.md` has the format). This module reads and checks packs and
knows nothing of the engine: `Pack.rules()` gives plain values that the gateway hands to
`vfs.redaction.from_mapping`. A pack is taken whole or refused whole, with file, line and reason.
"""

import json
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import re2
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from policies.paths import Glob

_NUMBERS = frozenset(
    {"email", "card", "iban", "phone", "us-ssn", "us-itin", "uk-nino", "uk-nhs", "ca-sin",
     "de-tax-id", "fr-nir", "it-cf", "es-dni", "pl-pesel", "nl-bsn", "se-pnr", "fi-hetu",
     "no-fnr", "be-nn", "br-cpf", "br-cnpj", "ar-cuit", "cl-rut", "in-aadhaar", "cn-id",
     "jp-my-number", "kr-rrn", "sg-nric", "au-tfn", "au-medicare", "za-id", "tr-kimlik",
     "il-id", "ru-snils", "th-id"}
)  # fmt: skip
"""Check digits and forms of personal numbers."""

VALIDATORS = _NUMBERS | frozenset(
    {"entropy", "length", "not-stand-in", "not-code", "not-name", "not-path", "not-label", "mixed",
     "random", "symbols", "jwt", "wrapped-key", "luhn", "mod97"}
)  # fmt: skip
"""What a rule may name; `entropy` and `length` take a number behind a colon."""

OPEN, CLOSE = "«", "»"
"""Around the secret in an example, so that the suite checks the very span."""

MAX_FILE = 4 << 20
"""Bytes of a pack file."""


_NOT_FOR_THE_ENGINE = frozenset({"description", "examples"})


class PackError(ValueError):
    """A pack that is refused. `where` is a line, or a rule and its field."""

    def __init__(self, file: str, where: str, reason: str) -> None:
        super().__init__(f"{file}: {where}: {reason}")
        self.file = file
        self.where = where
        self.reason = reason


def _glob(text: str) -> str:
    Glob.parse(text)
    return text


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Example(_Model):
    """A text, and the part of it that has to be hidden (None: any finding of the rule counts)."""

    text: str
    secret: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _joined(cls, value: Any) -> Any:
        """From a string, or a list of strings that are joined (no scanner takes it for a key)."""
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            value = "".join(value)
        if not isinstance(value, str):
            return value
        before, _, rest = value.partition(OPEN)
        secret, closed, after = rest.partition(CLOSE)
        if not closed:
            return {"text": value}
        return {"text": before + secret + after, "secret": secret}


class Examples(_Model):
    """Texts in which the rule has to find something, and texts in which it must not."""

    match: Annotated[tuple[Example, ...], Field(min_length=1)]
    no_match: tuple[Example, ...] = ()


class PackRule(_Model):
    """One rule; the fields are explained in `docs/rule-packs.md`."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)]
    description: Annotated[str, Field(min_length=1, max_length=200)]
    kind: Literal["credential", "private-key", "token", "personal"]
    pattern: Annotated[str, Field(min_length=1, max_length=4000)]
    anchor: Annotated[str, Field(min_length=1, max_length=4000)] | None = None
    keywords: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    validators: tuple[str, ...] = ()
    profiles: Annotated[tuple[Literal["secrets", "pii", "strict"], ...], Field(min_length=1)] = (
        "secrets",
    )
    window: Annotated[int, Field(ge=16, le=16384)] = 1024
    extend: Literal["", "word", "base64", "pem", "wrapped", "values"] = ""
    priority: Annotated[int, Field(ge=0, le=100)] = 10
    examples: Examples

    @model_validator(mode="after")
    def _keywords_hold(self) -> "PackRule":
        """Without hyperscan a rule is looked for only where one of its keywords stands."""
        for example in self.examples.match:
            text = example.text.lower()
            if self.keywords and not any(word.lower() in text for word in self.keywords):
                raise ValueError("none of the keywords stands in one of the examples")
        return self

    @field_validator("pattern", "anchor")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        if not pattern.isascii():
            raise ValueError("a pattern is ASCII; write other bytes as \\xNN")
        options = re2.Options()
        options.encoding = re2.Options.Encoding.LATIN1
        options.log_errors = False
        try:
            groups = re2.compile(pattern.encode("ascii"), options).groupindex
        except re2.error as error:
            detail = error.args[0] if error.args else error
            text = detail.decode("ascii", "replace") if isinstance(detail, bytes) else str(detail)
            raise ValueError(f"not a regular expression that RE2 takes: {text}") from None
        if set(groups) - {b"secret"}:
            raise ValueError("the only named group is 'secret'")
        return pattern

    @field_validator("validators")
    @classmethod
    def _are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name.partition(":")[0] not in VALIDATORS:
                raise ValueError(f"unknown validator {name!r}")
        return names


class Allow(_Model):
    """What is not masked although a rule finds it: whole values, and files by globs of host paths
    as in a policy's `pathGlob`."""

    values: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    paths: tuple[Annotated[str, AfterValidator(_glob)], ...] = ()


class Pack(_Model):
    """A pack file's contents."""

    format: Literal[1]
    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)]
    description: str = ""
    pack_rules: Annotated[tuple[PackRule, ...], Field(alias="rules")] = ()
    allow: Allow = Allow()

    @model_validator(mode="after")
    def _ids_are_unique(self) -> "Pack":
        seen: set[str] = set()
        for rule in self.pack_rules:
            if rule.id in seen:
                raise ValueError(f"two rules have the id {rule.id!r}")
            seen.add(rule.id)
        return self

    def rules(self) -> list[dict[str, Any]]:
        """The rules as plain values, the fields of `vfs.redaction.Rule`."""
        return [rule.model_dump(exclude=set(_NOT_FOR_THE_ENGINE)) for rule in self.pack_rules]


def load_pack(path: Path) -> Pack:
    """Reads one pack file; raises PackError for whatever is wrong with it."""
    name = str(path)
    try:
        if path.stat().st_size > MAX_FILE:
            raise PackError(name, "file", f"larger than {MAX_FILE} bytes")
        text = path.read_text("utf-8")
    except OSError as error:
        raise PackError(name, "file", error.strerror or "cannot be read") from None
    except UnicodeDecodeError:
        raise PackError(name, "file", "not UTF-8") from None
    return parse_pack(text, name)


def parse_pack(text: str, name: str) -> Pack:
    """As `load_pack`, for a text; `name` stands for the file in errors."""
    try:
        plain = json.loads(text)
    except json.JSONDecodeError as error:
        raise PackError(name, f"line {error.lineno}", f"not JSON: {error.msg}") from None
    except RecursionError:
        raise PackError(name, "file", "nested too deeply") from None
    try:
        return Pack.model_validate(plain)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason = first["msg"].removeprefix("Value error, ")
        raise PackError(name, _where(text, plain, first["loc"]), reason) from None


def builtin_packs() -> list[Pack]:
    """The packs that are shipped, in name order; raises PackError if one is damaged."""
    folder = resources.files(__name__)
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".json"))
    return [parse_pack(folder.joinpath(name).read_text("utf-8"), name) for name in names]


def builtin_rules() -> list[dict[str, Any]]:
    """The rules of all shipped packs, as `Pack.rules()` gives them, without checking them: the
    tests have, and it would cost each start a tenth of a second."""
    defaults = {
        name: field.default
        for name, field in PackRule.model_fields.items()
        if name not in _NOT_FOR_THE_ENGINE and not field.is_required()
    }
    folder = resources.files(__name__)
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".json"))
    return [
        defaults | {key: value for key, value in rule.items() if key not in _NOT_FOR_THE_ENGINE}
        for name in names
        for rule in json.loads(folder.joinpath(name).read_text("utf-8"))["rules"]
    ]


def _where(text: str, plain: Any, place: tuple[int | str, ...]) -> str:
    """`line 12, rule x, pattern` for an error's place in the parsed document."""
    if len(place) < 2 or place[0] != "rules" or not isinstance(place[1], int):
        return ".".join(str(part) for part in place) or "file"
    rule = plain["rules"][place[1]]
    label = rule.get("id", place[1]) if isinstance(rule, dict) else place[1]
    field = ".".join(str(part) for part in place[2:])
    line = _line_of_rule(text, place[1])
    return ", ".join(part for part in (f"line {line}", f"rule {label}", field) if part)


def _line_of_rule(text: str, index: int) -> int:
    """The line on which the rule's object begins; `text` is known to be JSON with such a rule."""
    decoder = json.JSONDecoder()
    at = text.index("[", text.index('"rules"')) + 1
    for _ in range(index):
        at = decoder.raw_decode(text, _next_value(text, at))[1]
    return text.count("\n", 0, _next_value(text, at)) + 1


def _next_value(text: str, at: int) -> int:
    while text[at] in " \t\r\n,":
        at += 1
    return at
