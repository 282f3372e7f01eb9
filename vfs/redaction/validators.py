"""Validators: cheap second opinions on a value that a pattern matched.

Each is named in a rule, `name` or `name:argument`, and takes the matched bytes. All are linear in
the value, which a rule's window bounds, and none uses a backtracking regular expression.
"""

import base64
import json
import math
from collections import Counter
from collections.abc import Callable

from vfs.redaction import identity_numbers

Validator = Callable[[bytes], bool]

_STAND_INS = (
    b"changeme", b"change_me", b"change-me", b"example", b"placeholder", b"your_", b"your-",
    b"yourpass", b"yoursecret", b"yourtoken", b"yourkey", b"<your", b"insert", b"replace",
    b"redacted", b"dummy", b"xxxx", b"****", b"...", b"####", b"todo", b"fixme",
    b"enter_", b"enter-", b"sample", b"undefined", b"put_", b"put-your",
    b"not-a-real", b"notasecret", b"foobar", b"fake", b"randomstring", b"tokenhere",
    b"keyhere", b"secrethere", b"abcdefghijklmnopqr",
)  # fmt: skip
_WORDS = frozenset(
    b"none null nil true false yes no on off empty string str bytes int bool object any password "
    b"passwd pass passphrase secret token key apikey api_key value username user test testing "
    b"required optional default unset disabled enabled hidden prompt ask env file auto basic "
    b"bearer digest oauth oauth2 plain text undefined function return self this login admin root "
    b"public private".split()
)
_TEMPLATES = (
    b"{{", b"<", b"%(", b"#{", b"[", b"-----", b"@{", b"${", b"$(", b"$env:", b"!ref", b"!sub",
)  # fmt: skip
_LETTERS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_DIGITS = frozenset(b"0123456789")
_KIND = bytes(0x64 if c in _DIGITS else 0x61 if c in _LETTERS else 0x2E for c in range(256))
ENTROPY_HEAD = 1024
_N_LOG_N = [0.0, *(n * math.log2(n) for n in range(1, ENTROPY_HEAD + 1))]
_HEX = frozenset(b"0123456789abcdefABCDEF")
_CASE = bytes(0x41 if chr(c).isupper() else 0x61 if chr(c).islower() else 0x2E for c in range(256))
_STRONG = frozenset(b"!@$^&*|;")
_NAME = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-. :#/?,;()[]'")
_CODE_MARKS = (b"$(", b"<%", b"::", b"->", b"=>", b"==", b"{}")
_EXPRESSION = _LETTERS | _DIGITS | frozenset(b"_$.:>@&*!?|+,=<-")
_TEMPLATE_NAME = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.:?- "
_ARITHMETIC = _DIGITS | frozenset(b".,<>+-*/")
_BEYOND_ASCII = bytes(range(0x80, 0x100))


def named(name: str) -> Validator:
    """The validator that a rule names; raises ValueError for an unknown one or a bad argument."""
    head, _, argument = name.partition(":")
    if head in _WITH_NUMBER and argument:
        try:
            number = float(argument)
        except ValueError:
            raise ValueError(f"validator {name!r}: {argument!r} is not a number") from None
        make = _WITH_NUMBER[head]
        return lambda value: make(value, number)
    if head in _PLAIN and not argument:
        return _PLAIN[head]
    raise ValueError(f"unknown validator {name!r}")


def entropy(value: bytes) -> float:
    """Shannon entropy in bits a byte, of the first `ENTROPY_HEAD` bytes."""
    value = value[:ENTROPY_HEAD]
    if not value:
        return 0.0
    weights = map(_N_LOG_N.__getitem__, Counter(value).values())
    return math.log2(len(value)) - sum(weights) / len(value)


def _entropy_at_least(value: bytes, bits: float) -> bool:
    return entropy(value) >= bits


def _length_at_least(value: bytes, size: float) -> bool:
    return len(value) >= size


def is_stand_in(value: bytes) -> bool:
    """A word or template that stands where a secret would (`changeme`, `<token>`, `${VAR}`)."""
    lowered = value.strip(b" \t\"'").lower()
    if lowered in _WORDS or len(set(lowered)) < 3:
        return True
    if lowered.startswith(_TEMPLATES):
        return True
    if lowered.startswith(b"$") and lowered[1:].replace(b"_", b"").isalpha():
        return True
    if lowered.startswith(b"%") and lowered.endswith(b"%"):
        return True
    return any(word in lowered for word in _STAND_INS)


def _has_digit(value: bytes) -> bool:
    return not _DIGITS.isdisjoint(value)


def _mixed(value: bytes) -> bool:
    """Letters and digits both, or letters whose case keeps changing as base64's does."""
    if _LETTERS.isdisjoint(value):
        return False
    return _has_digit(value) or value.translate(_CASE).count(b"aA") >= 3


def _not_code(value: bytes) -> bool:
    """Not an expression of a program: a call, an index, an attribute, a template."""
    if any(mark in value for mark in _CODE_MARKS) or _template(value):
        return False
    if value.startswith((b"(", b",", b";", b")")) or value.endswith((b"(", b"[", b"{")):
        return False
    if not value.isdigit() and _ARITHMETIC.issuperset(value):
        return False
    brackets = [at for at in (value.find(b"("), value.find(b"[")) if at >= 0]
    if brackets and _EXPRESSION.issuperset(value[: min(brackets)]):
        return False
    head = value.rstrip(b";,)")
    if head.replace(b"_", b"").replace(b".", b"").isalpha():
        return False
    parts = head.split(b".")
    if len(parts) == 1 or not all(_identifier(part) for part in parts):
        return True
    return any(len(part) >= 10 and _random(part) for part in parts)


def _template(value: bytes) -> bool:
    """Holds `${name}` or `{{ name }}`, whole or cut at the end; lone braces are a password's."""
    for opening, closing in ((b"${", b"}"), (b"{{", b"}}")):
        _, found, rest = value.partition(opening)
        after = rest.lstrip(_TEMPLATE_NAME)
        if found and (not after or after.startswith(closing)):
            return True
    return False


_LABELS = (
    b"password", b"passwd", b"passphrase", b"passwort", b"kennwort", b"contrase", b"mot-de-passe",
    b"username", b"field", b"label", b"input", b"prompt", b"param", b"secret", b"token", b"name",
    b"_key", b"-key", b"config", b"settings", b"hash", b"type", b"string", b"text", b"confirm",
    b"reset", b"forgot", b"required", b"invalid", b"missing", b"wrong", b"error", b"encoded",
    b"plain", b"credential", b"authenticat", b"grant",
)  # fmt: skip


def _not_label(value: bytes) -> bool:
    """Not a word that names or describes a password's field (`userPassword`, `confirm`)."""
    lowered = value.lower()
    return not any(label in lowered for label in _LABELS)


def _identifier(part: bytes) -> bool:
    return bool(part) and part[0] not in _DIGITS and part.replace(b"_", b"").isalnum()


def _not_name(value: bytes) -> bool:
    """Not words only (`open sesame` is lost for the sake of `user_password` and prose), nor signs
    only, nor a text that is mostly beyond ASCII."""
    plain = value.translate(None, _BEYOND_ASCII)
    if 2 * len(plain) < len(value) or (_LETTERS.isdisjoint(plain) and not _has_digit(plain)):
        return False
    return not _NAME.issuperset(plain)


def _random(value: bytes) -> bool:
    """Letters and digits interleaved as in random text, unlike in names (`sha256_v2`)."""
    if _is_uuid(value):
        return True
    kinds = value.translate(_KIND)
    changes = sum(kinds.count(pair) for pair in (b"ad", b"da"))
    return changes >= 3


def _is_uuid(value: bytes) -> bool:
    groups = value.split(b"-")
    if [len(group) for group in groups] != [8, 4, 4, 4, 12]:
        return False
    return _HEX.issuperset(b"".join(groups)) and len(set(value)) > 4


def _symbols(value: bytes) -> bool:
    """A character that names, paths, numbers and templates of words do not have."""
    return not _STRONG.isdisjoint(value)


def _not_path(value: bytes) -> bool:
    """Not a path, a URL or a format of one."""
    return b"://" not in value and not value.startswith((b"/", b"./", b"../", b"~/", b"%"))


def _jwt(value: bytes) -> bool:
    """The first part decodes to a JSON object, as RFC 7515 has it, or two parts begin as one
    does: a token that was damaged or altered is still mostly one."""
    header, _, payload = value.partition(b".")
    if header.startswith(b"eyJ") and payload.startswith(b"eyJ"):
        return True
    try:
        decoded = base64.urlsafe_b64decode(header + b"=" * (-len(header) % 4))
        return isinstance(json.loads(decoded), dict)
    except ValueError:
        return False


def _wrapped_key(value: bytes) -> bool:
    """Base64 whose first line is the armour of a private key."""
    head = value[: len(value) // 4 * 4][:80]
    try:
        return b"PRIVATE KEY" in base64.b64decode(head)
    except ValueError:
        return False


def _luhn(value: bytes) -> bool:
    """The check digit of payment cards (ISO/IEC 7812-1)."""
    digits = [byte - 48 for byte in value if byte in _DIGITS]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return len(digits) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _mod97(value: bytes) -> bool:
    """The check digits of an IBAN (ISO 13616, ISO/IEC 7064 mod 97-10)."""
    plain = value.replace(b" ", b"").upper()
    if len(plain) < 5 or not plain.isalnum():
        return False
    return int("".join(str(int(chr(c), 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def _number(check: Validator) -> Validator:
    """A check digit's function for whatever a rule matched, of any length."""

    def agrees(value: bytes) -> bool:
        try:
            return check(value)
        except (IndexError, KeyError, ValueError):
            return False

    return agrees


_WITH_NUMBER: dict[str, Callable[[bytes, float], bool]] = {
    "entropy": _entropy_at_least,
    "length": _length_at_least,
}
_PLAIN: dict[str, Validator] = {
    "not-stand-in": lambda value: not is_stand_in(value),
    "not-code": _not_code,
    "not-name": _not_name,
    "not-label": _not_label,
    "mixed": _mixed,
    "symbols": _symbols,
    "not-path": _not_path,
    "random": _random,
    "jwt": _jwt,
    "wrapped-key": _wrapped_key,
    "luhn": _luhn,
    "mod97": _mod97,
    **{name: _number(check) for name, check in identity_numbers.CHECKS.items()},
}
NAMES = frozenset(_WITH_NUMBER) | frozenset(_PLAIN)
