"""The decision: whether an access may go on, by which rule, and under what limits.

Pure: no clock, no file system, no grants of its own. An engine never changes; a new policy is a new
engine, so nothing that an old one remembered outlives it. Safe to call from any thread.

How layers add up: every layer speaks for itself, and the strictest verdict wins, `deny` before
`ask` before `allow`. Within a layer a rule exempts only from the defaults of its own file. So
adding a layer never loosens anything, and neither the order of rules nor that of layers matters.

What is not known counts against the caller: a rule that tightens holds where the subject, program,
method or sensitivity that it matches is None in the query, a rule that allows does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from policies.hosts import ANY_HOST, canonical_host, common_hosts, host_matches, host_pattern
from policies.model import ACTIONS, Action
from policies.paths import PatternError, is_canonical
from policies.rulebook import Layer, LayerName, ReadyRule, Rulebook

Verdict = Literal["allow", "ask", "deny"]
Access = Literal["list", "read", "write", "network"]

NO_GRANT: Final = "defaults.noGrant"
BAD_QUERY: Final = "defaults.badQuery"
READ_DEFAULT: Final = "defaults.allowAIFileRead"
WRITE_DEFAULT: Final = "defaults.allowAIFileWrite"
HOSTS_DEFAULT: Final = "defaults.allowedNetworkHosts"
DURATION_DEFAULT: Final = "defaults.maxGrantDurationSecs"

_PATHS_REMEMBERED: Final = 65_536
_VERDICTS_REMEMBERED: Final = 16_384
_STRENGTH: Final[dict[Verdict, int]] = {"allow": 0, "ask": 1, "deny": 2}
_ACCESS: Final[dict[Access, tuple[Action, ...]]] = {
    "list": ("list",),
    "read": ("list", "read"),
    "write": ("list", "read", "write"),
    "network": ("network",),
}
_REASONS: Final = {
    NO_GRANT: "no live grant covers this",
    BAD_QUERY: "this is not a path or host that policy can judge",
    READ_DEFAULT: "this policy opens no files to agents but those that its rules name",
    WRITE_DEFAULT: "this policy lets agents change no files but those that its rules name",
    HOSTS_DEFAULT: "this host is not among those that the policy allows",
}


LOOKED_INTO: Final = frozenset(
    f"{what}-{kind}"
    for what in ("secrets-in", "unreadable")
    for kind in ("archive", "document", "git")
)
"""Classes that are always looked for before any content is shown: where nobody has looked yet,
a rule about nothing else waits for that second query."""


class Query(NamedTuple):
    """One access to judge. A tuple, since it is made on every access.

    `path` is the canonical host path of a file action, `host` and `method` (None inside a tunnel
    that nobody can look into) belong to `network`. `exe` is the path of the calling program.
    `sensitivity` holds the classes found in the contents; None means that nobody has looked yet.
    """

    action: Action
    path: bytes | None = None
    host: str | None = None
    method: str | None = None
    subject: str | None = None
    exe: bytes | None = None
    sensitivity: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided, and by whom.

    `rule` is a rule's id, or one of the `defaults.` names where no rule spoke; it and `layer` are
    None when nothing speaks against an access and no rule for it. `hide` asks for `ENOENT` and no
    prompt. `redact` is a profile to add to the grant's. `max_bytes` bounds one access. `flags` are
    labels that the review shows.
    """

    verdict: Verdict
    rule: str | None = None
    layer: LayerName | None = None
    reason: str | None = None
    hide: bool = False
    redact: str | None = None
    max_bytes: int | None = None
    file: str | None = None
    flags: tuple[str, ...] = ()


class Duration(NamedTuple):
    """How long a grant may live, in seconds (None: until revoked), and what shortened it, if
    anything.
    """

    seconds: int | None
    rule: str | None
    layer: LayerName | None


class PolicyEngine:
    """Judges by the given layers, and by nothing else. Raises PatternError for hopeless patterns.

    `generation` is the caller's count of policies so far; `version` depends on what the layers say
    alone.
    """

    def __init__(self, layers: Iterable[Layer], generation: int = 0) -> None:
        self._book: Final = Rulebook(layers)
        self.generation: Final = generation
        self._barring: Final = {
            action: _barring(self._book.layers, action) for action in ACTIONS if action != "network"
        }
        self._about_path: Final = lru_cache(_PATHS_REMEMBERED)(self._find_path)
        self._about_host: Final = lru_cache(_VERDICTS_REMEMBERED)(self._find_host)
        self._judge: Final = lru_cache(_VERDICTS_REMEMBERED)(self._weigh)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in force, in their order."""
        return self._book.layers

    @property
    def version(self) -> str:
        """SHA-256 in hexadecimal of all that the layers say."""
        return self._book.version

    def decide(self, query: Query, granted: bool) -> Decision:
        """The verdict on one access; `granted` says whether a live grant covers it.

        `ask` stands whether or not a grant covers the access; that the user has answered already is
        for the caller to know. Of several rules that say the same, the first in order of layers is
        named, and a rule before a default.
        Never raises: what cannot be judged is denied.
        """
        action, path, host, method, subject, exe, sensitivity = query
        about = self._about(action, path, host)
        if about is None:
            return _BAD
        if method is not None:
            method = method.upper()
        return self._judge(*about, action, method, subject, exe, sensitivity, granted, False)

    def hidden(self, path: bytes, subject: str | None = None) -> bool:
        """Whether the name is to vanish, by a rule on it or on a folder above it."""
        return self.decide(Query("list", path, subject=subject), True).hide

    def flags(self, path: bytes, subject: str | None = None) -> tuple[str, ...]:
        """The labels that the review shows at a change of this file, sorted."""
        return self.decide(Query("write", path, subject=subject), True).flags

    def may_grant(
        self,
        access: Access,
        path: bytes | None,
        subject: str | None,
        *,
        host: str | None = None,
        method: str | None = None,
    ) -> Decision:
        """Whether the user may grant this by hand: `allow` or `deny`, never `ask`.

        A grant by hand is the user's own answer, so an `ask` rule does not stand in its way; its id
        and reason come back with the `allow`. Rules on the program or the contents are left out:
        they are for the access itself. What lies denied below a granted folder stays denied.
        """
        decisions = [
            self._standing(action, path, subject, host, method) for action in _ACCESS[access]
        ]
        worst = max(decisions, key=lambda decision: _STRENGTH[decision.verdict])
        return worst if worst.verdict == "deny" else replace(worst, verdict="allow")

    def max_duration(
        self,
        path: bytes | None,
        requested: int | None,
        *,
        subject: str | None = None,
        host: str | None = None,
    ) -> Duration:
        """The life of a grant on `path` (or `host`): the request, cut to the shortest of all
        limits.

        A limit on anything that the grant would reach counts, so that a grant on a parent folder is
        no way around it. `requested` and the result are seconds; None is until revoked.
        """
        best = Duration(requested, None, None)
        for layer in self._book.layers:
            limit = layer.document.defaults.max_grant_duration_secs
            best = _shorter(best, Duration(limit, DURATION_DEFAULT, layer.name))
        name = None if host is None else _host_or_none(host)
        for ready in self._book.rules:
            limit = ready.rule.max_duration
            if limit is None or (subject is not None and not _named(ready.subjects, subject)):
                continue
            if path is not None:
                applies = not ready.rule.match.about_network and ready.reaches(path)
            else:
                applies = not ready.about_path and (name is None or ready.host_holds(name))
            if applies:
                layer_name = self._book.layers[ready.layer].name
                best = _shorter(best, Duration(limit, ready.rule.id, layer_name))
        return best

    def allowed_hosts(self) -> tuple[str, ...] | None:
        """The host patterns outside of which `decide` denies whatever is granted; None without
        limits.

        For showing, and for refusing early: within them, rules may still ask or deny.
        """
        common: frozenset[str] | None = None
        for number, layer in enumerate(self._book.layers):
            hosts = layer.document.defaults.allowed_network_hosts
            if hosts is None:
                continue
            reach = {host_pattern(host) for host in hosts}
            for ready in self._book.rules:
                if ready.layer == number and "network" in ready.permits and not ready.tightens_only:
                    reach |= set(ready.hosts or (ANY_HOST,))
            common = frozenset(reach) if common is None else common_hosts(common, reach)
        if common is None or ANY_HOST in common:
            return None
        return tuple(sorted(common))

    def _standing(
        self,
        action: Action,
        path: bytes | None,
        subject: str | None,
        host: str | None,
        method: str | None,
    ) -> Decision:
        """The verdict on a grant, which has no program and no contents yet."""
        about = self._about(action, path, host)
        if about is None:
            return _BAD
        if method is not None:
            method = method.upper()
        return self._judge(*about, action, method, subject, None, None, True, True)

    def _about(
        self, action: Action, path: bytes | None, host: str | None
    ) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """The rules about an access and the layers whose defaults bar it; None for a bad query."""
        if action == "network":
            return None if host is None else self._about_host(host)
        barring = self._barring.get(action)
        if path is None or barring is None:
            return None
        rules = self._about_path(path)
        return None if rules is None else (rules, barring)

    def _find_path(self, path: bytes) -> tuple[int, ...] | None:
        return self._book.about_path(path) if is_canonical(path) else None

    def _find_host(self, host: str) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """The rules about a host, and the layers whose list of hosts leaves it out."""
        name = _host_or_none(host)
        if name is None:
            return None
        barring = tuple(
            number
            for number, layer in enumerate(self._book.layers)
            if layer.document.defaults.allowed_network_hosts is not None
            and not any(
                host_matches(host_pattern(pattern), name)
                for pattern in layer.document.defaults.allowed_network_hosts
            )
        )
        return self._book.about_host(name), barring

    def _weigh(
        self,
        rules: tuple[int, ...],
        barring: tuple[int, ...],
        action: Action,
        method: str | None,
        subject: str | None,
        exe: bytes | None,
        sensitivity: frozenset[str] | None,
        granted: bool,
        standing: bool,
    ) -> Decision:
        """Adds up what the rules and the defaults of all layers say. The one place that decides.

        `barring` are the layers whose defaults refuse the action, unless a rule of theirs permits
        it.
        """
        said: Decision | None = None
        permitting: set[int] = set()
        withheld: dict[int, ReadyRule] = {}
        profiles: set[str] = set()
        flags: set[str] = set()
        limits: list[int] = []
        hide = False
        for number in rules:
            ready = self._book.rules[number]
            if standing and (ready.exe_matcher is not None or ready.sensitivity):
                continue
            holds = _holds(ready, method, subject, exe, sensitivity)
            if holds is False:
                continue
            rule = ready.rule
            if action in ready.denies:
                said = self._stronger(said, "deny", ready)
            elif action in ready.asks:
                said = self._stronger(said, "ask", ready)
            if action in ready.withholds:
                withheld.setdefault(ready.layer, ready)
            if rule.redact is not None:
                profiles.update(rule.redact.split("+"))
            if rule.max_bytes is not None:
                limits.append(rule.max_bytes)
            if rule.flag is not None:
                flags.add(rule.flag)
            hide = hide or bool(rule.hide)
            if holds and not ready.tightens_only:
                if action in ready.permits:
                    permitting.add(ready.layer)
                if action in ready.allows:
                    said = self._stronger(said, "allow", ready)
        for number in sorted({*barring, *withheld} - permitting):
            if number in withheld:
                said = self._stronger(said, "deny", withheld[number])
            else:
                said = self._barred(said, action, self._book.layers[number])
        if not granted and (said is None or said.verdict != "deny"):
            said = Decision("deny", NO_GRANT, "built-in", _REASONS[NO_GRANT])
        return replace(
            said or Decision("allow"),
            hide=hide,
            redact=_profile(profiles),
            max_bytes=min(limits, default=None),
            flags=tuple(sorted(flags)),
        )

    def _stronger(self, said: Decision | None, verdict: Verdict, ready: ReadyRule) -> Decision:
        if said is not None and _STRENGTH[said.verdict] >= _STRENGTH[verdict]:
            return said
        layer = self._book.layers[ready.layer]
        return Decision(verdict, ready.rule.id, layer.name, ready.rule.reason, file=layer.file)

    def _barred(self, said: Decision | None, action: Action, layer: Layer) -> Decision:
        if said is not None and said.verdict == "deny":
            return said
        if action == "network":
            name = HOSTS_DEFAULT
        elif action in ("write", "delete") and layer.document.defaults.allow_ai_file_write is False:
            name = WRITE_DEFAULT
        else:
            name = READ_DEFAULT
        return Decision("deny", name, layer.name, _REASONS[name], file=layer.file)


_BAD: Final = Decision("deny", BAD_QUERY, "built-in", _REASONS[BAD_QUERY], hide=True)


def _barring(layers: Iterable[Layer], action: Action) -> tuple[int, ...]:
    """The layers whose defaults refuse a file action. No reading means no writing either."""
    return tuple(
        number
        for number, layer in enumerate(layers)
        if layer.document.defaults.allow_ai_file_read is False
        or (action in ("write", "delete") and layer.document.defaults.allow_ai_file_write is False)
    )


def _holds(
    ready: ReadyRule,
    method: str | None,
    subject: str | None,
    exe: bytes | None,
    sensitivity: frozenset[str] | None,
) -> bool | None:
    """Whether the match holds beyond path and host; None where that is not known."""
    known = True
    if ready.methods:
        if method is None:
            known = False
        elif method not in ready.methods:
            return False
    if ready.subjects:
        if subject is None:
            known = False
        elif subject not in ready.subjects:
            return False
    if ready.exe_matcher is not None:
        if exe is None:
            known = False
        elif not ready.exe_matcher.matches(exe):
            return False
    if ready.sensitivity:
        if sensitivity is None and ready.sensitivity <= LOOKED_INTO:
            return False
        if sensitivity is None:
            known = False
        elif ready.sensitivity.isdisjoint(sensitivity):
            return False
    return True if known else None


def _named(names: frozenset[str], name: str) -> bool:
    return not names or name in names


def _host_or_none(host: str) -> str | None:
    try:
        return canonical_host(host)
    except PatternError:
        return None


def _shorter(best: Duration, limit: Duration) -> Duration:
    if limit.seconds is None or (best.seconds is not None and best.seconds <= limit.seconds):
        return best
    return limit


def _profile(classes: set[str]) -> str | None:
    """One name for the union of profiles: `secrets` first, then `pii`, then the rest by name."""
    if not classes:
        return None
    first = {"secrets": 0, "pii": 1}
    return "+".join(sorted(classes, key=lambda name: (first.get(name, 2), name)))
