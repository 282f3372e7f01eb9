"""Builds the redactor of a workspace from the rule packs and its placeholder key."""

import base64
import json
import logging
import os
import stat
from pathlib import Path

from cryptography.exceptions import InvalidTag

from gateway.authority.keys import Keys
from gateway.daemon.rulepacks import Rules
from gateway.errors import GrantfsError
from vfs.redaction import PROFILES, Engine, KnownValues, Masker, Redactor, from_mapping

log = logging.getLogger(__name__)


def build_engine(rules: Rules, cache: Path | None) -> Engine:
    """The scanner over all packs; its compiled form is kept in the folder *cache*, which all of a
    user's workspaces share (to compile takes seconds).

    Raises RuleError or ScanError if it cannot be made of these rules.
    """
    shipped = [from_mapping(fields, trusted=True) for fields in rules.shipped]
    kept = cache if cache is not None and _is_private(cache) else None
    engine = Engine([*shipped, *map(from_mapping, rules.own)], kept, rules.allowed_values)
    if rules.own:
        for profile in PROFILES:
            engine.find(b"", profile)  # compiles: what hyperscan refuses is found now
    return engine


def _is_private(folder: Path) -> bool:
    """True for a folder that nobody else can write to: what is in it decides what is masked."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        log.warning("no cache of compiled rules: %s: %s", folder, error.strerror)
        return False
    private = (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.geteuid()
        and not status.st_mode & 0o022
    )
    if not private:
        log.warning("no cache of compiled rules: %s is not a folder of yours alone", folder)
    return private


def build_redactor(keys: Keys, rules: Rules, folder: Path, cache: Path) -> Redactor:
    """The workspace's redactor; its known values are sealed in the state *folder*.

    Raises GrantfsError where what is there does not open with the workspace's key.
    """
    known = _SealedValues(folder / "known.sealed", keys)
    return Redactor(
        build_engine(rules, cache),
        Masker(keys.derive("placeholder")),
        KnownValues(known.load(), known.save),
    )


class _SealedValues:
    """The known values at rest: the only store of secrets, under the workspace's key."""

    _LABEL = b"known-values"

    def __init__(self, path: Path, keys: Keys) -> None:
        self._path, self._keys = path, keys

    def load(self) -> dict[bytes, str]:
        """What was learned before. Raises GrantfsError."""
        try:
            sealed = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        try:
            found = json.loads(self._keys.unseal(sealed, self._LABEL))
        except (InvalidTag, ValueError):
            # Less would be masked than before: say so rather than go on.
            raise GrantfsError(
                f"{self._path} is damaged: without it values that are known to be secret would"
                " show; remove it to learn them anew from what is read"
            ) from None
        return {base64.b64decode(value): rule for value, rule in found.items()}

    def save(self, values: dict[bytes, str]) -> None:
        """Replace the file; on a full disk the values stay in memory, where they are in force."""
        coded = {base64.b64encode(value).decode(): rule for value, rule in values.items()}
        plain = json.dumps(coded).encode()
        temporary = self._path.with_suffix(".new")
        try:
            temporary.touch(mode=0o600)
            temporary.write_bytes(self._keys.seal(plain, self._LABEL))
            temporary.replace(self._path)
        except OSError as error:
            log.error("known values are not kept over a restart: %s", error.strerror)
