"""Which policy is in force: reading its layers, and keeping the last good one.

At the start there is no last good policy, so a file that cannot be used is an error that stops the
start: running without it would be looser than its author asked for. Later on, a file that stops
being usable leaves what it last said in force. While anything in a folder is unusable, no file of
that folder goes out of force by vanishing either (the unusable one may be its new name); files that
can be read count as they now are. Problems are kept for `ps`, `doctor` and the log.

`PolicySet.reload` is for one task or thread at a time; `current` may be read from any.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from policies.engine import PolicyEngine
from policies.files import (
    ManagedFolder,
    fingerprint,
    links_of,
    policy_file,
    policy_files,
    shown,
)
from policies.model import Rule
from policies.parse import PolicyError, parse_policy
from policies.paths import PatternError, escape_glob, is_canonical
from policies.rulebook import Layer, LayerName

__all__ = [
    "ManagedFolder",
    "PolicyError",
    "PolicySet",
    "builtin_layer",
    "find_problems",
    "load_layers",
]

_DEFAULT_FILE: Final = "default.json"
STATE_RULE: Final = "grantfs-state"


@dataclass(frozen=True, slots=True)
class _Source:
    """A folder or file from which layers of one name come."""

    name: LayerName
    path: Path
    folder: bool
    managed: ManagedFolder | None = None


def builtin_layer(protected: Iterable[bytes] = ()) -> Layer:
    """The layer that comes with grantfs.

    `protected` are canonical host paths that no grant may ever reach: grantfs's own state, policy
    and mounts. They are hidden with all below them. Raises ValueError for a path that is not
    canonical.
    """
    data = resources.files("policies").joinpath(_DEFAULT_FILE).read_bytes()
    document = parse_policy(data, _DEFAULT_FILE)
    paths = tuple(sorted(set(protected)))
    for path in paths:
        if not is_canonical(path):
            raise ValueError(f"not a canonical path: {path!r}")
    if paths:
        own = Rule.model_validate(
            {
                "id": STATE_RULE,
                "match": {"pathGlob": [escape_glob(path).decode("ascii") for path in paths]},
                "deny": {"list": True},
                "hide": True,
                "reason": "This is grantfs's own state, which no agent may see.",
            }
        )
        document = document.model_copy(update={"rules": (*document.rules, own)})
    return Layer("built-in", None, document)


def load_layers(
    managed_dirs: Sequence[Path | ManagedFolder] = (),
    user_dir: Path | None = None,
    workspace_file: Path | None = None,
    *,
    protected: Iterable[bytes] = (),
) -> tuple[Layer, ...]:
    """All layers, the built-in one last; every file is a layer of its own.

    A managed folder given as a plain path is one that only root may be able to write. What is not
    there adds nothing. Raises PolicyError for the first file or folder that cannot be used.
    """
    policies = PolicySet(managed_dirs, user_dir, workspace_file, protected=protected)
    return policies.current.layers


def find_problems(
    managed_dirs: Sequence[Path | ManagedFolder] = (),
    user_dir: Path | None = None,
    workspace_file: Path | None = None,
) -> list[PolicyError]:
    """Everything that would stop `load_layers`, for `doctor`. Puts nothing into force."""
    sources = _sources(managed_dirs, user_dir, workspace_file)
    return [problem for source in sources for problem in _scan(source)[1]]


class PolicySet:
    """The policy in force, from its files. Raises PolicyError if any cannot be used at the start.

    `generation` counts the policies that have been in force, from 1.
    """

    def __init__(
        self,
        managed_dirs: Sequence[Path | ManagedFolder] = (),
        user_dir: Path | None = None,
        workspace_file: Path | None = None,
        *,
        protected: Iterable[bytes] = (),
    ) -> None:
        self._sources: Final = tuple(_sources(managed_dirs, user_dir, workspace_file))
        self._builtin: Final = builtin_layer(protected)
        self._good: dict[_Source, Mapping[Path, Layer]] = {}
        self._problems: tuple[PolicyError, ...] = ()
        self._seen = self._fingerprint()
        for source in self._sources:
            layers, problems = _scan(source)
            if problems:
                raise problems[0]
            self._good[source] = layers
        self._current = self._engine(self._good, 1)

    @property
    def current(self) -> PolicyEngine:
        """The engine in force; take it anew for every access."""
        return self._current

    @property
    def generation(self) -> int:
        """Grows by one each time another policy comes into force."""
        return self._current.generation

    @property
    def problems(self) -> tuple[PolicyError, ...]:
        """What the last reload found unusable; empty when all files are in force as they stand."""
        return self._problems

    def watched(self) -> tuple[Path, ...]:
        """The folders in which a change may be a change of policy; some may not exist yet."""
        return tuple(dict.fromkeys(s.path if s.folder else s.path.parent for s in self._sources))

    def changed(self) -> bool:
        """Whether the files look other than at the last reload. A few `stat` calls, cheap enough
        for once a second: a watcher can lose events, and cannot watch a folder that is not there
        yet."""
        return self._fingerprint() != self._seen

    def reload(self) -> list[PolicyError]:
        """Reads all files again, puts what is usable into force, and returns what is not.

        Never raises for what a file says or is.
        """
        self._seen = self._fingerprint()
        good: dict[_Source, Mapping[Path, Layer]] = {}
        problems: list[PolicyError] = []
        for source in self._sources:
            layers, found = _scan(source)
            problems.extend(found)
            good[source] = {**self._good[source], **layers} if found else layers
        try:
            engine = self._engine(good, self.generation + 1)
        except PolicyError as error:
            problems.append(error)
        else:
            self._good = good
            if engine.version != self._current.version:
                self._current = engine
        self._problems = tuple(problems)
        return problems

    def _engine(
        self, good: Mapping[_Source, Mapping[Path, Layer]], generation: int
    ) -> PolicyEngine:
        layers = [layer for by_file in good.values() for layer in by_file.values()]
        try:
            return PolicyEngine([*layers, self._builtin], generation)
        except PatternError as error:
            raise PolicyError("all policy files together", "", str(error)) from error

    def _fingerprint(self) -> tuple[object, ...]:
        return tuple(fingerprint(source.path) for source in self._sources)


def _sources(
    managed_dirs: Sequence[Path | ManagedFolder],
    user_dir: Path | None,
    workspace_file: Path | None,
) -> Iterable[_Source]:
    for entry in managed_dirs:
        managed = entry if isinstance(entry, ManagedFolder) else ManagedFolder(entry)
        yield _Source("managed", managed.path, True, managed)
    if user_dir is not None:
        yield _Source("user", user_dir, True)
    if workspace_file is not None:
        yield _Source("workspace", workspace_file, False)


def _scan(source: _Source) -> tuple[dict[Path, Layer], list[PolicyError]]:
    """The usable layers of one source by file, and what was not usable."""
    layers: dict[Path, Layer] = {}
    problems: list[PolicyError] = []
    try:
        if source.folder:
            contents = list(policy_files(source.path, source.managed))
        else:
            data = policy_file(source.path)
            contents = [] if data is None else [(source.path, data)]
    except PolicyError as error:
        return layers, [error]
    for path, content in contents:
        try:
            if isinstance(content, PolicyError):
                raise content
            layers[path] = _layer(source.name, path, content)
        except PolicyError as error:
            problems.append(error)
    return layers, problems


def _layer(name: LayerName, path: Path, data: bytes) -> Layer:
    file = shown(path)
    document = parse_policy(data, file)
    return Layer(name, os.fspath(file), document, links_of(document, file))
