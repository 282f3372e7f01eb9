"""Builds the redactor of a workspace from the rule packs and its placeholder key."""

import base64
import json
import logging
from pathlib import Path

from cryptography.exceptions import InvalidTag

from gateway.authority.keys import Keys
from gateway.errors import GrantfsError
from policies.packs import builtin_rules
from vfs.redaction import Engine, KnownValues, Masker, Redactor, from_mapping

log = logging.getLogger(__name__)


def build_engine(cache: Path | None) -> Engine:
    """The scanner over the shipped packs; its compiled form is kept in *cache*.

    Raises PackError or RuleError if a pack is bad, ScanError if the engine cannot be made.
    """
    return Engine((from_mapping(fields, trusted=True) for fields in builtin_rules()), cache)


def build_redactor(keys: Keys, folder: Path) -> Redactor:
    """The workspace's redactor; its known values are sealed in the state *folder*.

    Raises GrantfsError where what is there does not open with the workspace's key.
    """
    known = _SealedValues(folder / "known.sealed", keys)
    return Redactor(
        build_engine(folder),
        Masker(keys.derive("placeholder")),
        KnownValues(known.load(), known.save),
    )


class _SealedValues:
    """The known values at rest: the only store of secrets, under the workspace's key."""

    _LABEL = b"known-values"

    def __init__(self, path: Path, keys: Keys) -> None:
        self._path, self._keys = path, keys

    def load(self) -> list[bytes]:
        """What was learned before. Raises GrantfsError."""
        try:
            sealed = self._path.read_bytes()
        except FileNotFoundError:
            return []
        try:
            found = json.loads(self._keys.unseal(sealed, self._LABEL))
        except (InvalidTag, ValueError):
            # Less would be masked than before: say so rather than go on.
            raise GrantfsError(
                f"{self._path} is damaged: without it values that are known to be secret would"
                " show; remove it to learn them anew from what is read"
            ) from None
        return [base64.b64decode(value) for value in found]

    def save(self, values: list[bytes]) -> None:
        """Replace the file; on a full disk the values stay in memory, where they are in force."""
        plain = json.dumps([base64.b64encode(value).decode() for value in values]).encode()
        temporary = self._path.with_suffix(".new")
        try:
            temporary.touch(mode=0o600)
            temporary.write_bytes(self._keys.seal(plain, self._LABEL))
            temporary.replace(self._path)
        except OSError as error:
            log.error("known values are not kept over a restart: %s", error.strerror)
