"""`./dev bench [PART] [--write] [--corpus FILE]`: speed and memory, as ratios against peers.

Absolute times say little on a machine that others use, too. So each thing is done in a plain
folder, in a grantfs mount and in mounts of peers (bindfs, fuse-overlayfs, where installed), in turn
and several times over, and the medians are compared. What has no peer is done at two sizes: the
growth tells if its cost is linear. `--write` puts the tables into `docs/bench.md`.
"""

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

TESTS = Path(__file__).parent
RESULT = TESTS.parent / "docs" / "bench.md"
sys.path[:0] = [str(TESTS), str(TESTS / "mount")]

import bench_redaction  # noqa: E402
import driving as driver  # noqa: E402
from driving import Grantfs, driving  # noqa: E402

SECONDS = 3600
driver.CALL_SECONDS = SECONDS

MIB = 1 << 20
Rows = list[tuple[str, ...]]


def timed(work: Callable[[], object]) -> float:
    """Seconds that a piece of work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def quiet(*words: str | Path, cwd: Path | None = None) -> None:
    """Run a program, its output thrown away."""
    subprocess.run(list(map(str, words)), check=True, cwd=cwd, stdout=subprocess.DEVNULL)


def memory(pid: int) -> int:
    """Bytes of memory that a process has resident."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# -- io: against peers ---------------------------------------------------------------------


@contextlib.contextmanager
def peers(base: Path, grantfs: Grantfs, fill: Callable[[Path], None]) -> Iterator[dict[str, Path]]:
    """The same content in a plain folder and in one mount of each kind."""
    places = {}
    undo: list[list[str]] = []
    for name in ("plain", "grantfs", "bindfs", "fuse-overlayfs"):
        if name not in ("plain", "grantfs") and shutil.which(name) is None:
            print(f"{name} is not installed: left out")
            continue
        source, mount = base / f"{name}-source", base / f"{name}-mount"
        source.mkdir()
        fill(source)
        places[name] = source if name == "plain" else mount
        if name == "grantfs":
            places[name] = grantfs.up(source, "--name", "w", "--mount", mount) / source.name
        elif name == "bindfs":
            mount.mkdir()
            quiet("bindfs", source, mount)
            undo.append(["umount", str(mount)])
        elif name == "fuse-overlayfs":
            for part in (mount, base / "upper", base / "work"):
                part.mkdir()
            layers = f"lowerdir={source},upperdir={base}/upper,workdir={base}/work"
            quiet("fuse-overlayfs", "-o", layers, mount)
            undo.append(["umount", str(mount)])
    try:
        yield places
    finally:
        for words in undo:
            subprocess.run(words, check=True)


def fill_io(folder: Path) -> None:
    """A small repository and a large file."""
    for number in range(40):
        inner = folder / f"d{number}"
        inner.mkdir()
        for index in range(25):
            (inner / f"f{index}.py").write_text(f"def f{index}():\n    return {number}\n" * 20)
    (folder / "large").write_bytes(bytes(range(256)) * (64 * MIB // 256))
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        quiet(*git, *words, cwd=folder)


def write_small(folder: Path) -> None:
    """500 new files."""
    (folder / "new").mkdir()
    for number in range(500):
        (folder / "new" / f"f{number}").write_bytes(b"small\n" * 50)


def open_all(folder: Path) -> None:
    """Every small file opened and read."""
    for number in range(40):
        for index in range(25):
            (folder / f"d{number}" / f"f{index}.py").read_bytes()


IO: dict[str, Callable[[Path], object]] = {
    "walk 1,000 files (find)": lambda f: quiet("find", f),
    "open and read 1,000 files": open_all,
    "search them (grep -r)": lambda f: quiet("grep", "-rI", "return 39", f, "--exclude=large"),
    "git status": lambda f: quiet("git", "status", "--short", cwd=f),
    "read 64 MiB": lambda f: quiet("cat", f / "large"),
    "make 500 files": write_small,
    "walk them": lambda f: quiet("find", f / "new"),
    "remove them": lambda f: shutil.rmtree(f / "new"),
    "write 64 MiB": lambda f: quiet(
        "dd", "if=/dev/zero", f"of={f}/big", "bs=1M", "count=64", "status=none"
    ),
    "remove it": lambda f: (f / "big").unlink(),
}


def io(grantfs: Grantfs) -> tuple[tuple[str, ...], Rows]:
    """What ordinary work costs, in times of a plain folder."""
    found: dict[str, dict[str, list[float]]] = {}
    with peers(grantfs.home.parent, grantfs, fill_io) as places:
        for _ in range(5):
            for what, work in IO.items():
                for name, place in places.items():
                    seconds = timed(lambda w=work, p=place: w(p))
                    found.setdefault(what, {}).setdefault(name, []).append(seconds)
        names = [name for name in places if name != "plain"]
    rows = []
    for what, by_name in found.items():
        plain = statistics.median(by_name["plain"])
        rows.append((what, *(f"{statistics.median(by_name[n]) / plain:.1f}" for n in names)))
    return ("times of a plain folder", *names), rows


# -- scale ---------------------------------------------------------------------------------


def many(folder: Path, count: int, size: int = 100) -> None:
    """So many small files, 50 in a folder."""
    for number in range(count // 50):
        inner = folder / f"p{number}"
        inner.mkdir(parents=True)
        for index in range(50):
            (inner / f"f{index}.js").write_bytes(b"module.exports = %d\n" % index * (size // 20))


def source_scale(grantfs: Grantfs) -> tuple[tuple[str, ...], Rows]:
    """A source of 200,000 files, against one of 50."""
    base = grantfs.home.parent
    small, large = base / "small", base / "large"
    many(small, 50)
    many(large, 200_000)
    found: dict[str, list[float]] = {"small": [], "large": []}
    for _ in range(3):
        for source in (small, large):
            found[source.name].append(timed(lambda s=source: grantfs.up(s, "--name", s.name)))
            grantfs.run("down", "-w", source.name)
    ratio = statistics.median(found["large"]) / statistics.median(found["small"])
    rows = [("`up`, times of a source of 50 files", f"{ratio:.2f}")]
    proj = grantfs.up(large, "--name", "large") / "large"
    pid = grantfs.pid("large")
    before = memory(pid)
    ls = [timed(lambda p=p: os.listdir(p / "p7")) for p in (proj, large) for _ in range(1)]
    rows.append(("`ls` of one folder, bytes that the daemon grew by", f"{memory(pid) - before:,}"))
    assert ls
    walk = timed(lambda: quiet("find", proj)) / timed(lambda: quiet("find", large))
    known = memory(pid) - before
    rows.append(("first `find`, times of the plain folder", f"{walk:.1f}"))
    rows.append(("memory for each file that the kernel knows, bytes", f"{known / 204_000:.0f}"))
    Path("/proc/sys/vm/drop_caches").write_text("2")
    after = memory(pid) - before
    rows.append(("of it left once the kernel has forgotten them", f"{after / known:.0%}"))
    again = timed(lambda: quiet("find", proj)) / timed(lambda: quiet("find", large))
    grown = memory(pid) - before
    rows.append(("second `find`, times of the plain folder", f"{again:.1f}"))
    rows.append(("memory after it, times of after the first", f"{grown / known:.2f}"))
    grantfs.run("down", "-w", "large")
    return ("a source of 200,000 files", "grantfs"), rows


def stage_scale(grantfs: Grantfs) -> tuple[tuple[str, ...], Rows]:
    """25,000 and 50,000 staged files: what doubles is linear."""
    base = grantfs.home.parent
    found: dict[str, dict[int, float]] = {}
    grown: dict[int, float] = {}
    for count in (25_000, 50_000):
        source, name = base / f"source{count}", f"s{count}"
        source.mkdir()
        proj = grantfs.up(source, "--name", name) / source.name
        bare = memory(grantfs.pid(name))

        def note(what: str, work: Callable[[], object], n: int = count) -> None:
            found.setdefault(what, {})[n] = timed(work)

        def call(*words: str, w: str = name) -> None:
            grantfs.run(*words, "-w", w)

        note("make them", lambda p=proj, n=count: many(p / "node_modules", n))
        grown[count] = (memory(grantfs.pid(name)) - bare) / count
        note("walk them", lambda p=proj: quiet("find", p))
        note("`status`", lambda: call("status", "--json"))
        note("`diff`", lambda: call("diff", "--json"))
        call("down")
        note("`up`", lambda n=name: grantfs.up("--name", n))
        note("rename the folder", lambda p=proj: os.rename(p / "node_modules", p / "moved"))
        note("`commit`", lambda: call("commit", "-y", "--json"))
        note("remove all", lambda p=proj: shutil.rmtree(p / "moved"))
        note("`status` of deletions", lambda: call("status", "--json"))
        note("`discard`", lambda: call("discard", "-y", "--json"))
        call("down")
    rows = [(what, f"{by[50_000] / by[25_000]:.2f}") for what, by in found.items()]
    rows.append(("memory for each staged file, bytes", f"{grown[50_000]:.0f}"))
    return ("50,000 staged files, times of 25,000", "grantfs"), rows


def commits(grantfs: Grantfs) -> tuple[tuple[str, ...], Rows]:
    """New and edited small files, committed and undone, against `cp -a` of the same with each file
    and folder synced."""
    base = grantfs.home.parent
    rows = []
    for count in (1, 1_000, 10_000):
        found: dict[str, list[float]] = {}
        for turn in range(3):
            source, plain = base / f"c{count}-{turn}", base / f"plain{count}-{turn}"
            source.mkdir()
            proj = grantfs.up(source, "--name", source.name) / source.name
            many(proj / "new", max(count, 50)) if count > 1 else (proj / "one").write_bytes(b"1\n")

            def call(*words: str, w: str = source.name) -> None:
                grantfs.run(*words, "-w", w, "--json")

            def copy(one: Path = source, other: Path = plain) -> None:
                quiet("cp", "-a", one, other)
                quiet("find", other, "-exec", "sync", "{}", "+")

            found.setdefault("commit", []).append(timed(lambda: call("commit", "-y")))
            found.setdefault("copy", []).append(timed(copy))
            found.setdefault("undo", []).append(timed(lambda: call("undo")))
            call("down")
        copied = statistics.median(found.pop("copy"))
        rows.append(
            (
                f"{count:,}",
                *(f"{statistics.median(times) / copied:.2f}" for times in found.values()),
            )
        )
    return ("small files; times of `cp -a` and `sync` of each", "`commit`", "`undo`"), rows


def redaction(grantfs: Grantfs) -> tuple[tuple[str, ...], Rows]:
    """The engine alone; the cache is a fresh folder."""
    return ("redaction, shipped rules", "here"), bench_redaction.speed(grantfs.home)


PARTS: dict[str, list[Callable[[Grantfs], tuple[tuple[str, ...], Rows]]]] = {
    "io": [io],
    "scale": [source_scale, stage_scale],
    "commit": [commits],
    "redaction": [redaction],
}


def table(head: tuple[str, ...], rows: Rows) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def main() -> int:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(prog="./dev bench")
    parser.add_argument("part", nargs="?", choices=list(PARTS), help="all of them by default")
    parser.add_argument("--write", action="store_true", help="write docs/bench.md")
    parser.add_argument("--corpus", type=Path, help="labelled cases, for redaction")
    parser.add_argument("--show", action="store_true", help="print each case that went wrong")
    options = parser.parse_args()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    said = [
        "# Speed and memory",
        "",
        "Written by `./dev bench --write`: ratios of medians, measured in turn in one run.",
        "",
        f"Commit {commit or 'unknown'}, {time.strftime('%Y-%m-%d', time.gmtime())},"
        f" on {os.cpu_count()} processors.",
        "",
    ]
    for name in [options.part] if options.part else PARTS:
        for measure in PARTS[name]:
            with driving(SECONDS) as grantfs:
                said.append(table(*measure(grantfs)))
            print(said[-1], flush=True)
    if options.corpus is not None:
        # What was found depends on the cases: it is not for the document.
        print(bench_redaction.quality(options.corpus, show=options.show))
    if options.write:
        RESULT.write_text("\n".join(said))
    return 0


if __name__ == "__main__":
    sys.exit(main())
