"""The vfs core without a mount: a workspace over a temporary folder, with stubs around it."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from core_agent import Agent

from vfs.attributes import Caller
from vfs.filesystem import Filesystem
from vfs.gate import Access, Request, Verdict
from vfs.projection import Projection
from vfs.source import Source

ALL = Access.LIST | Access.READ | Access.WRITE
KEY = b"k" * 32


@dataclass
class StubGate:
    """Allows what `allowed` says, hides what `hide` says, refuses what `refuse` says."""

    allowed: Access = ALL
    hide: Callable[[bytes], bool] = lambda _path: False
    refuse: Callable[[Request], bool] = lambda _request: False
    generation: int = 1
    events: list[tuple[str, str, bytes]] = field(default_factory=list)
    asked: list[tuple[str, bytes]] = field(default_factory=list)

    def access(self, projection: int) -> Access:
        return self.allowed

    def profile(self, projection: int, host_path: bytes) -> str:
        return "secrets"

    def hidden(self, projection: int, host_path: bytes) -> bool:
        return self.hide(host_path)

    def decide(self, request: Request) -> Verdict:
        self.asked.append((request.action, request.host_path))
        return Verdict(not self.refuse(request))

    def report(
        self,
        event: str,
        outcome: str,
        mount_path: bytes,
        caller: Caller | None,
        projection: int,
        detail: Mapping[str, str | int | bool | None],
    ) -> None:
        self.events.append((event, outcome, mount_path))


@dataclass(frozen=True)
class StubSnapshot:
    data: bytes
    findings: tuple[object, ...]


def mask(data: bytes) -> bytes:
    """What the agent sees of *data*: of the same length."""
    return re.sub(rb"SECRET[0-9]+", lambda found: b"x" * len(found[0]), data)


class StubReader:
    """Scans a large file as a whole, once it is made to."""

    def __init__(self, read: Callable[[int, int], bytes], size: int, owner: "StubRedactor") -> None:
        self._read = read
        self._size = size
        self._owner = owner
        self._masked: bytes | None = None

    def ready(self, offset: int, size: int) -> bool:
        return self._masked is not None

    def read(self, offset: int, size: int) -> bytes:
        if self._masked is None:
            self._masked = self._owner.scan(self._read(0, self._size))
        return self._masked[offset : offset + size]


class StubRedactor:
    """Masks SECRET and digits; `broken` makes scans fail, `meanwhile` runs before each."""

    def __init__(self) -> None:
        self.version = "1"
        self.scans = 0
        self.looks = 0
        self.broken = False
        self.meanwhile: Callable[[], None] = lambda: None

    def scan(self, data: bytes) -> bytes:
        self.scans += 1
        self.meanwhile()
        if self.broken:
            raise RuntimeError("engine is out of order")
        return mask(data)

    def holds_finding(self, _text: bytes, _profile: str = "") -> bool:
        return False

    def container(self, head: bytes, _profile: str = "") -> bool:
        return head.startswith(b"BOX")

    def look_into(self, _read: object, _size: int, _profile: str = "") -> frozenset[str]:
        self.looks += 1
        return frozenset()

    def snapshot(self, data: bytes, profile: str = "secrets") -> StubSnapshot:
        masked = self.scan(data)
        return StubSnapshot(masked, () if masked == data else ("finding",))

    def reader(
        self, read: Callable[[int, int], bytes], size: int, profile: str = "secrets"
    ) -> StubReader:
        return StubReader(read, size, self)


class Clock:
    """The clock of a source: stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns

    def second_passes(self) -> None:
        self.now_ns += 1_000_000_000


class Workspace:
    """One workspace with `source` granted as `proj`; `agent` works in it."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source"
        self.source.mkdir()
        self.state = folder / "state"
        self.state.mkdir(mode=0o700)
        self.gate = StubGate()
        self.redactor = StubRedactor()
        self.clock = Clock()
        self.protected: set[tuple[int, int]] = set()
        self.fs: Filesystem
        self.agent: Agent
        self.projection: Projection

    def start(self, state: Path | None = None, root: Path | None = None) -> "Workspace":
        """Serve; in tests of crashes and restarts from another `state`."""
        self.fs = Filesystem(state or self.state, self.gate, self.redactor, KEY)
        self.projection = Projection(
            1,
            b"proj",
            Source(
                os.fsencode(root or self.source), self.protected.__contains__, self.clock, b"proj"
            ),
        )
        self.fs.project(self.projection)
        self.agent = Agent(self.fs)
        return self

    def stop(self) -> None:
        self.fs.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def end(self) -> None:
        """End the grant as the gateway does."""
        self.gate.allowed = Access.NONE
        self.fs.begin_end(self.projection)
        self.fs.finish_end(self.projection)


def descriptors() -> int:
    """How many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """A workspace with an empty source, not started: fill `source`, then `start`."""
    before = descriptors()
    made = Workspace(tmp_path)
    yield made
    if hasattr(made, "fs"):
        made.stop()
    assert descriptors() == before, "descriptors left open"
