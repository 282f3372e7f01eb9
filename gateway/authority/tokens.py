"""Tokens: the signed form of a grant.

A token is JSON of named fields, signed with Ed25519 over its canonical form (sorted keys, no
white space, UTF-8), in the text form `gfs1.BODY.SIGNATURE` of unpadded base64url. It is bound to
issuer, subject, workspace, owner, scopes and expiry; unknown fields are refused.
"""

import base64
import binascii
import json
from dataclasses import asdict, dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gateway.errors import GrantfsError

_PREFIX = "gfs1"


class TokenError(GrantfsError):
    """A token does not hold; the message says why."""


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says. Times are seconds since the epoch; `expires_at` None: until revoked."""

    id: str
    issuer: str
    subject: str
    workspace: str
    owner: int
    scopes: tuple[str, ...]
    issued_at: float
    expires_at: float | None

    def _canonical(self) -> bytes:
        body = asdict(self)
        return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    def sign(self, key: Ed25519PrivateKey) -> str:
        """The text form."""
        body = self._canonical()
        return f"{_PREFIX}.{_encode(body)}.{_encode(key.sign(_PREFIX.encode() + body))}"


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    # Not urlsafe_b64decode alone: it passes over foreign characters and stray bits in silence.
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if _encode(data) != text:
        raise ValueError("not canonical base64url")
    return data


def verify(text: str, key: Ed25519PublicKey) -> Token:
    """Check form and signature and return what the token says; expiry and revocation are the
    caller's. Raises TokenError."""
    try:
        prefix, body_text, signature_text = text.split(".")
        if prefix != _PREFIX:
            raise ValueError(f"unknown form {prefix!r}")
        body, signature = _decode(body_text), _decode(signature_text)
    except (ValueError, binascii.Error) as error:
        raise TokenError(f"bad token: {error}") from error
    try:
        key.verify(signature, _PREFIX.encode() + body)
    except InvalidSignature as error:
        raise TokenError("bad token: the signature does not hold") from error
    try:
        fields = json.loads(body)
        token = Token(**{**fields, "scopes": tuple(fields["scopes"])})
        if token._canonical() != body:
            raise ValueError("not canonical")
    except (ValueError, TypeError, KeyError) as error:
        raise TokenError(f"bad token: {error}") from error
    return token
