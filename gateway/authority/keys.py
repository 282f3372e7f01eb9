"""The workspace's keys: one secret in the OS keyring, everything else derived from it.

Only real keyrings are used (an allow-list of back ends, read back after writing), since
`keyring` would otherwise take whatever is installed, a plaintext file included. Where there is
none, the secret is a 0600 file in the state folder, and `up`, `ps` and `doctor` say so each time.
A secret that is missing where state exists is an error: a new one would make every placeholder,
token and log entry of that state worthless in silence.
"""

import base64
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.authority.keystore_warning import FILE_WARNING
from gateway.errors import GrantfsError

_SERVICE = "grantfs"
_SECRET_BYTES = 32
_REAL_KEYRINGS = (
    "keyring.backends.SecretService.",
    "keyring.backends.libsecret.",
    "keyring.backends.kwallet.",
    "keyring.backends.macOS.",
    "keyring.backends.Windows.",
)
FILE = "file"
FILE_NAME = "workspace.key"


class KeyMissingError(GrantfsError):
    """The secret of an existing workspace cannot be found."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys derived from one workspace's secret; `store` says where that secret is."""

    secret: bytes
    store: str

    def derive(self, purpose: str) -> bytes:
        """A 32-byte key for one purpose (HKDF-SHA256 with the purpose as info)."""
        return HKDF(hashes.SHA256(), 32, salt=None, info=b"grantfs/1/" + purpose.encode()).derive(
            self.secret
        )

    @property
    def signing(self) -> Ed25519PrivateKey:
        """The key that signs tokens and log checkpoints."""
        return Ed25519PrivateKey.from_private_bytes(self.derive("ed25519"))

    def seal(self, data: bytes, label: bytes) -> bytes:
        """Encrypt and authenticate (AES-256-GCM); `label` must be given again to open it."""
        nonce = secrets.token_bytes(12)
        return nonce + AESGCM(self.derive("seal")).encrypt(nonce, data, label)

    def unseal(self, sealed: bytes, label: bytes) -> bytes:
        """The inverse of `seal`. Raises cryptography's InvalidTag if anything was changed."""
        return AESGCM(self.derive("seal")).decrypt(sealed[:12], sealed[12:], label)


def keyring_name() -> str | None:
    """Name of the real keyring that is in reach, None without one."""
    try:
        import keyring

        backend = keyring.get_keyring()
    except Exception:
        return None
    kind = f"{type(backend).__module__}.{type(backend).__qualname__}"
    chained = getattr(backend, "backends", None)
    if chained:
        kind = f"{type(chained[0]).__module__}.{type(chained[0]).__qualname__}"
    return kind if kind.startswith(_REAL_KEYRINGS) else None


def _put_in_keyring(identity: str, secret: bytes) -> bool:
    if keyring_name() is None:
        return False
    import keyring

    text = base64.b64encode(secret).decode()
    try:
        keyring.set_password(_SERVICE, identity, text)
        return keyring.get_password(_SERVICE, identity) == text
    except Exception:
        return False


def create(folder: Path, identity: str) -> Keys:
    """Make the secret of a new workspace: in the keyring, else in a file of *folder*.

    Raises GrantfsError if neither can be written.
    """
    secret = secrets.token_bytes(_SECRET_BYTES)
    if _put_in_keyring(identity, secret):
        return Keys(secret, keyring_name() or FILE)
    path = folder / FILE_NAME
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(base64.b64encode(secret) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise GrantfsError(
            f"cannot write the workspace's key to {path}: {error.strerror}"
        ) from error
    return Keys(secret, FILE)


def load(folder: Path, identity: str, store: str) -> Keys:
    """The keys of an existing workspace, from where its secret was put.

    Raises KeyMissingError; never makes a new secret.
    """
    if store == FILE:
        path = folder / FILE_NAME
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            with os.fdopen(fd, "rb") as file:
                if os.fstat(file.fileno()).st_mode & 0o077:
                    raise KeyMissingError(
                        f"{path} can be read by others: chmod 600 it if you trust it still"
                    )
                secret = base64.b64decode(file.read().strip(), validate=True)
        except (OSError, ValueError) as error:
            raise _missing(str(path)) from error
    else:
        try:
            import keyring

            if keyring_name() is None:
                raise LookupError("no keyring")
            secret = base64.b64decode(keyring.get_password(_SERVICE, identity) or "", validate=True)
        except Exception as error:
            raise _missing("the keyring") from error
    if len(secret) != _SECRET_BYTES:
        raise _missing(str(folder / FILE_NAME) if store == FILE else "the keyring")
    return Keys(secret, store)


def _missing(where: str) -> KeyMissingError:
    return KeyMissingError(
        f"the key of this workspace is not in {where}: unlock or restore it;"
        " without it the staged work cannot be committed (grantfs rm deletes the workspace)"
    )


def remove(folder: Path, identity: str, store: str) -> None:
    """Delete a workspace's secret."""
    if store == FILE:
        (folder / FILE_NAME).unlink(missing_ok=True)
        return
    import keyring

    keyring.delete_password(_SERVICE, identity)


def warning(store: str) -> str | None:
    """What to tell the user each time where the secret is not in a keyring."""
    return FILE_WARNING if store == FILE else None
