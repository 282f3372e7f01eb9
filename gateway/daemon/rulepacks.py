"""The rule packs in force: the shipped ones, and those that administrators and the user add.

At the start a pack that cannot be used is an error: without it less would be masked than its
author asked for. Later on, the last good packs stay in force while one is unusable.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.places import MANAGED_RULES, Places
from policies.files import ManagedFolder, fingerprint, policy_files
from policies.packs import PackError, builtin_rules, parse_pack
from policies.parse import PolicyError
from policies.paths import Glob, Matcher, matcher


@dataclass(frozen=True, slots=True)
class Rules:
    """What all packs say together. `own` rules have been checked, `shipped` ones need no check."""

    shipped: list[dict[str, Any]]
    own: list[dict[str, Any]]
    allowed_values: frozenset[bytes]
    allowed_paths: Matcher

    def serves_plain(self, host_path: bytes) -> bool:
        """True for a file that the allow-lists take out of masking."""
        return self.allowed_paths.matches(host_path)


def folders(places: Places) -> list[Path | ManagedFolder]:
    """Where packs are looked for beside the shipped ones: the system's folder, which only root may
    be able to change, and the user's."""
    return [ManagedFolder(MANAGED_RULES), places.user_rules]


def load(folders: Sequence[Path | ManagedFolder]) -> Rules:
    """Read the `*.json` packs of these folders, those that are there. Raises PackError."""
    shipped = builtin_rules()
    seen = {rule["id"]: "a shipped rule" for rule in shipped}
    own: list[dict[str, Any]] = []
    values: set[bytes] = set()
    globs: list[bytes] = []
    for folder in folders:
        managed = folder if isinstance(folder, ManagedFolder) else None
        path = folder.path if isinstance(folder, ManagedFolder) else folder
        try:
            for file, data in policy_files(path, managed):
                if isinstance(data, PolicyError):
                    raise data
                pack = parse_pack(_text(file, data), str(file))
                for rule in pack.rules():
                    if rule["id"] in seen:
                        raise PackError(
                            str(file), f"rule {rule['id']}", f"{seen[rule['id']]} has this id"
                        )
                    seen[rule["id"]] = f"a rule of {file}"
                    own.append(rule)
                values.update(value.encode() for value in pack.allow.values)
                globs += [Glob.parse(text).pattern() for text in pack.allow.paths]
        except PolicyError as error:
            raise PackError(str(path), "file", str(error)) from error
    return Rules(shipped, own, frozenset(values), matcher(globs))


def _text(file: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise PackError(str(file), "file", "not UTF-8") from None


def stamp(folders: Sequence[Path | ManagedFolder]) -> tuple[object, ...]:
    """What changes when a pack does."""
    return tuple(
        fingerprint(one.path if isinstance(one, ManagedFolder) else one) for one in folders
    )
