"""Rules as the engine takes them: plain data, checked on the way in.

The gateway reads rule packs with `policies.packs` and hands `Pack.rules()` to `from_mapping`; this
module knows nothing of files or of pydantic.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import re2

from vfs.redaction import validators
from vfs.redaction.spans import Kind

Extend = Literal["", "word", "base64", "pem", "wrapped", "values"]
"""How a match goes on behind its pattern's end; see `vfs.redaction.bodies`."""

WINDOW = 1024
MAX_WINDOW = 16384
"""Bytes. The stream's margin must hold several windows, so that windows meet before it ends."""


class RuleError(ValueError):
    """A rule that cannot be used; the text names the rule and the reason."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of secret.

    `pattern` is RE2 syntax over bytes; its group `secret` (or the whole match) is what is hidden.
    `anchor`, if given, is a cheaper pattern that lies within every match of `pattern` and proposes
    it; `window` bounds, in bytes, how far a match may reach before and behind the end of what
    proposed it. One of `keywords`, in small letters, stands in every match (none: any text may hold
    one). `priority` decides whose name an overlap bears. `validators` all have to agree.
    """

    id: str
    kind: Kind
    pattern: str
    anchor: str | None = None
    window: int = WINDOW
    validators: tuple[str, ...] = ()
    profiles: frozenset[str] = frozenset({"secrets"})
    extend: Extend = ""
    priority: int = 10
    keywords: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises RuleError for a pattern, a validator or a number that the engine refuses."""
        if not 16 <= self.window <= MAX_WINDOW:
            raise RuleError(f"rule {self.id}: window is not within 16 to {MAX_WINDOW} bytes")
        for name, pattern in (("pattern", self.pattern), ("anchor", self.anchor)):
            if pattern is not None:
                try:
                    regex(pattern)
                except (re2.error, UnicodeEncodeError) as error:
                    reason = f"rule {self.id}: {name}: {_text(error)}"
                    raise RuleError(reason) from None
        for validator in self.validators:
            try:
                validators.named(validator)
            except ValueError as error:
                raise RuleError(f"rule {self.id}: {error}") from None
        if self.extend in ("pem", "wrapped") and self.kind != "private-key":
            raise RuleError(f"rule {self.id}: extend {self.extend} is for private keys")


def from_mapping(fields: Mapping[str, Any], *, trusted: bool = False) -> Rule:
    """A Rule from plain values, as `policies.packs.Pack.rules()` gives them; raises RuleError.

    What is *trusted* is not compiled for its check (a third of a millisecond a rule): shipped rules
    are, which the tests check.
    """
    unknown = set(fields) - set(Rule.__slots__)
    if unknown:
        raise RuleError(f"rule {fields.get('id', '?')}: unknown fields {sorted(unknown)}")
    if fields["kind"] not in get_args(Kind):
        raise RuleError(f"rule {fields['id']}: unknown kind {fields['kind']!r}")
    if fields.get("extend", "") not in get_args(Extend):
        raise RuleError(f"rule {fields['id']}: unknown extend {fields['extend']!r}")
    plain = dict(fields)
    plain["validators"] = tuple(plain.get("validators", ()))
    plain["keywords"] = tuple(word.lower() for word in plain.get("keywords", ()))
    plain["profiles"] = frozenset(plain.get("profiles", ("secrets",)))
    rule = Rule(**plain)
    if not trusted:
        rule.check()
    return rule


def regex(pattern: str) -> Any:
    """The compiled RE2 pattern over bytes; raises re2.error."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    return re2.compile(pattern.encode("ascii"), options)


def _text(error: Exception) -> str:
    detail = error.args[0] if error.args else error
    return detail.decode("utf-8", "replace") if isinstance(detail, bytes) else str(error)
