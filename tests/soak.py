"""`./dev soak [--minutes N]`: kills and random calls with new seeds for hours, on real mounts.

Each part runs again and again with another seed until the time is over. What fails is shown with
its seed. The result, with the commit it ran on, goes to `docs/soak.md`.
"""

import argparse
import contextlib
import os
import random
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

TESTS = Path(__file__).parent
RESULT = TESTS.parent / "docs" / "soak.md"
sys.path[:0] = [str(TESTS), *(str(TESTS / name) for name in ("mount", "posix"))]

from driving import Grantfs, driving  # noqa: E402
from fuzz_redaction import fuzz  # noqa: E402
from mount_fixtures import fill  # noqa: E402
from test_crash import kills  # noqa: E402
from test_random_calls import rounds  # noqa: E402

KILLS = 18
CALLS = 3, 500
FILES = 1000
SECONDS = 600
"""What no single run takes; one that does hangs."""


@dataclass
class Part:
    """A thing to do again and again."""

    name: str
    unit: str
    amount: int
    run: Callable[[Grantfs, int], object]
    runs: int = 0
    failed: list[int] = field(default_factory=list)


PARTS = [
    Part(
        "the daemon killed under load, a third of the times during renames of folders, a third"
        " while the database's log is folded in",
        "kills",
        KILLS,
        lambda grantfs, seed: kills(grantfs, fill(grantfs.home.parent / "proj"), KILLS, seed),
    ),
    Part(
        "random calls on a mount and a plain folder, with restarts, and a commit at the end",
        "calls",
        CALLS[0] * CALLS[1],
        lambda grantfs, seed: rounds(grantfs, seed, *CALLS),
    ),
    Part(
        "hostile files through the scanner, the masker and the unpackers",
        "files",
        FILES,
        lambda _grantfs, seed: fuzz(seed, FILES),
    ),
]


def once(part: Part, seed: int) -> None:
    """Run a part once; note and show how it failed."""
    part.runs += 1
    try:
        with driving(SECONDS) as grantfs:
            part.run(grantfs, seed)
    except Exception:
        part.failed.append(seed)
        print(f"FAILED {part.unit}, seed {seed}\n{traceback.format_exc()}", flush=True)


def report(seconds: float) -> str:
    """The result as Markdown."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    lines = [
        "# The last long run",
        "",
        "Written by `./dev soak`. A failed run's seed makes it again.",
        "",
        f"Commit {commit or 'unknown'}, {time.strftime('%Y-%m-%d', time.gmtime())},"
        f" {seconds / 60:.0f} minutes on {os.cpu_count()} processors.",
        "",
        "| what | runs | amount | failed |",
        "| --- | --- | --- | --- |",
    ]
    for part in PARTS:
        failed = ", ".join(f"seed {seed}" for seed in part.failed) or "none"
        amount = f"{part.runs * part.amount:,} {part.unit}"
        lines.append(f"| {part.name} | {part.runs} | {amount} | {failed} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run for as long as asked; 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="./dev soak")
    parser.add_argument("--minutes", type=float, default=240)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="the first seed")
    options = parser.parse_args()
    start = time.monotonic()
    seed = options.seed
    with contextlib.suppress(KeyboardInterrupt):
        while time.monotonic() - start < options.minutes * 60:
            for part in PARTS:
                once(part, seed)
            seed += 1
            print(f"seed {seed - 1} done, {time.monotonic() - start:.0f} s", flush=True)
    RESULT.write_text(report(time.monotonic() - start))
    print(RESULT.read_text())
    return int(any(part.failed for part in PARTS))


if __name__ == "__main__":
    sys.exit(main())
