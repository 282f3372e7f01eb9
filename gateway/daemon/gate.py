"""The gate of a workspace: answers the vfs from live grants and policy, and writes the log.

Called on every access, so what it answers from is kept ready: per projection the accesses of its
live grants with their ends, rebuilt when a grant changes.
"""

import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

from gateway import clock
from gateway.audit.events import Actor, Event
from gateway.audit.writer import AuditLog
from gateway.authority.grants import GrantStore
from policies.engine import PolicyEngine, Query
from policies.loader import PolicySet
from vfs.attributes import Caller
from vfs.gate import Access, Request, Verdict

_ACCESS = {
    "list": Access.LIST,
    "read": Access.LIST | Access.READ,
    "write": Access.LIST | Access.READ | Access.WRITE,
}
_REFUSED = Verdict(False, None)


class _Term(NamedTuple):
    """One live grant's access and its ends on both clocks (infinity: none)."""

    access: Access
    wall_end: float
    boot_end: float
    profile: str


def executable(pid: int) -> str | None:
    """Path of a process's program, None if it is gone or not ours to see."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None


def strictest(profiles: set[str]) -> str:
    """The profile that masks all that any of *profiles* does; one that is unknown counts as the
    strictest. Rules name unions as `pii+secrets`."""
    classes = {part for profile in profiles for part in profile.split("+")}
    if classes and classes <= {"none"}:
        return "none"
    if classes and classes <= {"none", "secrets"}:
        return "secrets"
    if classes and classes <= {"none", "secrets", "pii"}:
        return "secrets+pii"
    return "strict"


class WorkspaceGate:
    """Implements `vfs.gate.Gate` over one workspace's grants, policy and log."""

    def __init__(self, grants: GrantStore, policies: PolicySet, log: AuditLog) -> None:
        self._grants = grants
        self._policies = policies
        self._log = log
        self._terms: dict[int, tuple[_Term, ...]] = {}
        self._subjects: dict[int, str] = {}
        self._ids: dict[int, str] = {}
        self._changes = 0
        self.serves_plain: Callable[[bytes], bool] = lambda _host_path: False
        self.refresh()

    def refresh(self) -> None:
        """Take in that grants changed."""
        terms: dict[int, list[_Term]] = {}
        boot_id = self._grants.boot_id
        self._subjects.clear()
        self._ids.clear()
        for grant in self._grants.live():
            same_boot = grant.boot_id == boot_id and grant.boot_end is not None
            term = _Term(
                _ACCESS[grant.access],
                float("inf") if grant.expires_at is None else grant.expires_at,
                grant.boot_end if same_boot and grant.boot_end else float("inf"),
                grant.profile,
            )
            terms.setdefault(grant.projection, []).append(term)
            self._subjects[grant.projection] = grant.subject
            self._ids[grant.projection] = grant.id
        self._terms = {projection: tuple(found) for projection, found in terms.items()}
        self._changes += 1

    @property
    def engine(self) -> PolicyEngine:
        """The policy in force."""
        return self._policies.current

    @property
    def generation(self) -> int:
        """Changes with every grant and policy."""
        return self._changes + self._policies.generation

    def subject(self, projection: int) -> str | None:
        """Whom a projection was granted to, None without a live grant."""
        return self._subjects.get(projection)

    def access(self, projection: int) -> Access:
        """Union of what the live grants of a projection allow at this instant."""
        allowed = Access.NONE
        terms = self._terms.get(projection)
        if terms:
            wall, boot = clock.now(), clock.boot_now()
            for term in terms:
                if wall < term.wall_end and boot < term.boot_end:
                    allowed |= term.access
        return allowed

    def profile(self, projection: int, host_path: bytes) -> str:
        """The strictest redaction profile that a live grant or a rule on the path asks for; `none`
        for what the user's rule packs take out of masking, unless policy has it masked."""
        profiles = {term.profile for term in self._terms.get(projection, ())}
        subject = self._subjects.get(projection)
        rule = self.engine.decide(Query("read", host_path, subject=subject), granted=True).redact
        if rule is not None:
            profiles.add(rule)
        elif self.serves_plain(host_path):
            return "none"
        return strictest(profiles)

    def hidden(self, projection: int, host_path: bytes) -> bool:
        """True if policy hides the path from the projection's subject."""
        return self.engine.hidden(host_path, self._subjects.get(projection))

    def decide(self, request: Request) -> Verdict:
        """Apply policy to an access that grants allow; `ask` is refused until consent exists.

        While the log cannot be written nothing is opened or changed: it would be off the record.
        """
        if self._log.failed is not None:
            return _REFUSED
        decision = self.engine.decide(
            Query(
                request.action,  # type: ignore[arg-type]
                request.host_path,
                subject=self._subjects.get(request.projection),
                sensitivity=request.labels,
            ),
            granted=True,
        )
        if decision.verdict == "allow":
            self._grants.used(request.projection)
            return Verdict(True, decision.rule)
        self._log.append(
            Event.REFUSE,
            outcome="refused",
            subject=self._subjects.get(request.projection),
            actor=self.actor(request.caller),
            path=request.mount_path,
            grant=self._ids.get(request.projection),
            detail={
                "action": request.action,
                "errno": "EACCES",
                "rule": decision.rule,
                "layer": decision.layer,
                "why": "policy asks first" if decision.verdict == "ask" else "policy denies",
            },
        )
        return _REFUSED

    @staticmethod
    def actor(caller: Caller) -> Actor:
        """The caller as the log names it."""
        return Actor(caller.pid, caller.uid, executable(caller.pid))

    def report(
        self,
        event: str,
        outcome: str,
        mount_path: bytes,
        caller: Caller | None,
        projection: int,
        detail: Mapping[str, str | int | bool | bytes | None],
    ) -> None:
        """Queue an event for the log."""
        self._log.append(
            Event(event),
            outcome=outcome,
            subject=self._subjects.get(projection),
            actor=None if caller is None else self.actor(caller),
            path=mount_path,
            grant=self._ids.get(projection),
            detail=detail,
        )
