"""Rules made ready for deciding: patterns compiled, short forms spelled out, one fixed order.

A rulebook is made once from the layers and never changes. It answers which rules are about a path
or a host; `engine` weighs what those rules say.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from policies.hosts import host_matches, host_pattern
from policies.model import ACTIONS, FILE_ACTIONS, Action, Actions, PolicyDocument, Rule
from policies.paths import (
    Glob,
    Matcher,
    PatternError,
    ancestors,
    canonical,
    covers,
    escape_glob,
    matcher,
)

LayerName = Literal["managed", "user", "workspace", "built-in"]
LAYER_NAMES: Final[tuple[LayerName, ...]] = ("managed", "user", "workspace", "built-in")
"""In the order in which a decision names them, when several say the same."""


@dataclass(frozen=True, slots=True)
class Link:
    """A symlink on the way to a path that a rule names, as found when the file was loaded.

    `written` is the folder as the rule has it, `target` what it stands for; both canonical. Rules
    tighten under both. They allow under `target` only if nobody but root could have made the link
    (`trusted`), as with a system's `/home` that is a link to `/var/home`.
    """

    written: bytes
    target: bytes
    trusted: bool


@dataclass(frozen=True, slots=True)
class Layer:
    """One policy file in force. `file` is None for what comes with grantfs."""

    name: LayerName
    file: str | None
    document: PolicyDocument
    links: tuple[Link, ...] = ()

    @property
    def order(self) -> tuple[int, str]:
        """Where this layer stands among others, whatever order they were given in."""
        return LAYER_NAMES.index(self.name), self.file or ""


@dataclass(frozen=True, slots=True)
class ReadyRule:
    """One rule of one layer, compiled.

    `allows`, `asks`, `denies` and `withholds` are complete: what an action takes from another one
    is spelled out. `permits` are the actions that this rule exempts from a default of its own file.
    """

    rule: Rule
    layer: int
    tightens_only: bool
    prefixes: tuple[bytes, ...]
    globs: tuple[Glob, ...]
    glob_matcher: Matcher | None
    hosts: tuple[str, ...]
    methods: frozenset[str]
    subjects: frozenset[str]
    exe_matcher: Matcher | None
    sensitivity: frozenset[str]
    allows: frozenset[Action] = field(default=frozenset())
    asks: frozenset[Action] = field(default=frozenset())
    denies: frozenset[Action] = field(default=frozenset())
    withholds: frozenset[Action] = field(default=frozenset())
    permits: frozenset[Action] = field(default=frozenset())

    @property
    def about_path(self) -> bool:
        """Whether the match names a path."""
        return bool(self.prefixes or self.globs)

    def path_holds(self, path: bytes) -> bool:
        """Whether what the match says of paths holds for a canonical path."""
        if self.prefixes and not any(covers(prefix, path) for prefix in self.prefixes):
            return False
        return self.glob_matcher is None or self.glob_matcher.matches(path)

    def reaches(self, folder: bytes) -> bool:
        """Whether the match could hold for `folder` or anything below it; never falsely no."""
        if self.prefixes and not any(
            covers(prefix, folder) or covers(folder, prefix) for prefix in self.prefixes
        ):
            return False
        return (
            self.glob_matcher is None
            or self.glob_matcher.matches(folder)
            or any(glob.reaches_below(folder) for glob in self.globs)
        )

    def host_holds(self, host: str) -> bool:
        """Whether what the match says of hosts holds for a canonical host."""
        return not self.hosts or any(host_matches(pattern, host) for pattern in self.hosts)


class Rulebook:
    """All rules of all layers in their fixed order, and an index over their paths.

    `layers` stand in their order. A rule is named by its place in `rules`. Raises PatternError when
    a rule's globs are too much for RE2.
    """

    def __init__(self, layers: Iterable[Layer]) -> None:
        self.layers: Final = tuple(sorted(layers, key=lambda layer: layer.order))
        self.rules: Final = tuple(
            ready
            for number, layer in enumerate(self.layers)
            for rule in sorted(layer.document.rules, key=lambda rule: rule.id)
            for ready in _ready(rule, number, layer.links)
        )
        self.version: Final = _digest(self.layers)
        self._anywhere: Final = frozenset(
            n
            for n, r in enumerate(self.rules)
            if not r.about_path and not r.rule.match.about_network
        )
        by_prefix: dict[bytes, list[int]] = {}
        for number, ready in enumerate(self.rules):
            if not ready.globs:
                for prefix in ready.prefixes:
                    by_prefix.setdefault(prefix, []).append(number)
        self._by_prefix: Final = by_prefix
        self._with_glob: Final = tuple(n for n, r in enumerate(self.rules) if r.globs)
        self._any_glob: Final = _combined([self.rules[n] for n in self._with_glob])

    def about_path(self, path: bytes) -> tuple[int, ...]:
        """The rules whose match may hold for a file access to a canonical path, in order."""
        found = set(self._anywhere)
        if self._by_prefix:
            for folder in ancestors(path):
                found.update(self._by_prefix.get(folder, ()))
        # Most paths match no glob at all, and then one pass of one automaton says so.
        if self._with_glob and (self._any_glob is None or self._any_glob.matches(path)):
            found.update(n for n in self._with_glob if self.rules[n].path_holds(path))
        return tuple(sorted(found))

    def about_host(self, host: str) -> tuple[int, ...]:
        """The rules whose match may hold for a network access to a canonical host, in order."""
        return tuple(
            number
            for number, ready in enumerate(self.rules)
            if not ready.about_path and ready.host_holds(host)
        )


def _ready(rule: Rule, layer: int, links: Sequence[Link]) -> Iterable[ReadyRule]:
    """The rule as written, and once more for each link on its way."""
    prefixes = tuple(canonical(text) for text in rule.match.path_prefix or ())
    globs = tuple(Glob.parse(text) for text in rule.match.path_glob or ())
    yield _compiled(rule, layer, prefixes, globs, trusted=True)
    for link in links:
        moved_prefixes = tuple(_moved(p, link) for p in prefixes if covers(link.written, p))
        moved_globs = tuple(
            Glob.parse(_moved_text(text, link))
            for text in rule.match.path_glob or ()
            if covers(link.written, Glob.parse(text).head)
        )
        if moved_prefixes or moved_globs:
            # Where a match has both keys, each may be reached through the link or not.
            yield _compiled(
                rule,
                layer,
                (*prefixes, *moved_prefixes),
                (*globs, *moved_globs),
                trusted=link.trusted,
            )


def _moved(path: bytes, link: Link) -> bytes:
    rest = path[len(link.written) :] if link.written != b"/" else path
    return (link.target.rstrip(b"/") + rest) or b"/"


def _moved_text(glob: str, link: Link) -> str:
    """The glob's source with the link's folder replaced; the literal part has no wildcard in it."""
    depth = link.written.count(b"/")
    rest = glob.rstrip("/").split("/")[depth + 1 :]
    folder = escape_glob(link.target.rstrip(b"/")).decode("ascii")
    return "/".join([folder, *rest]) or "/"


def _compiled(
    rule: Rule, layer: int, prefixes: tuple[bytes, ...], globs: tuple[Glob, ...], *, trusted: bool
) -> ReadyRule:
    match = rule.match
    allows, asks, denies = (_true(part) for part in (rule.allow, rule.ask, rule.deny))
    if rule.hide or (rule.deny and rule.deny.list):
        denies |= set(FILE_ACTIONS)
    withholds = {a for a in ACTIONS if rule.allow and rule.allow.says(a) is False}
    if rule.allow and rule.allow.list is False:
        withholds |= set(FILE_ACTIONS)
    if allows & set(FILE_ACTIONS):
        allows.add("list")
    permits = allows | asks
    if asks & set(FILE_ACTIONS):
        permits.add("list")
    exes = [Glob.parse(text).pattern() for text in match.exe or ()]
    return ReadyRule(
        rule=rule,
        layer=layer,
        tightens_only=bool(exes) or not trusted,
        prefixes=prefixes,
        globs=globs,
        # What is hidden takes all below it along: nothing is reached but through its folder's name.
        glob_matcher=matcher([g.pattern(below=bool(rule.hide)) for g in globs]) if globs else None,
        hosts=tuple(host_pattern(text) for text in match.host or ()),
        methods=frozenset(match.method or ()),
        subjects=frozenset(match.subject or ()),
        exe_matcher=matcher(exes) if exes else None,
        sensitivity=frozenset(match.sensitivity or ()),
        allows=frozenset(allows),
        asks=frozenset(asks),
        denies=frozenset(denies),
        withholds=frozenset(withholds),
        permits=frozenset(permits),
    )


def _true(part: Actions | None) -> set[Action]:
    return {action for action in ACTIONS if part and part.says(action)}


def _combined(rules: Sequence[ReadyRule]) -> Matcher | None:
    """One matcher for the globs of all rules, or None where that is too much for RE2."""
    sources = [g.pattern(below=bool(r.rule.hide)) for r in rules for g in r.globs]
    if not sources:
        return None
    try:
        return matcher(sources)
    except PatternError:
        return None


def _digest(layers: Sequence[Layer]) -> str:
    """SHA-256 over what the layers say and where they come from, in hexadecimal."""
    content = [
        (
            layer.name,
            layer.file,
            layer.document.as_json(),
            [(link.written.hex(), link.target.hex(), link.trusted) for link in layer.links],
        )
        for layer in layers
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
