"""Thousands of random calls on a mount and on a plain folder: results, errors and trees agree at
every step, after the mount was taken down and up, and in the source after a commit."""

import errno
import mmap
import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from driving import Grantfs
from places import EXCHANGE, NOREPLACE, Place, renameat2

NAMES = ("a", "b", "c", "d", "é", "long" * 10)


def fill(root: Path) -> None:
    """Something of everything, for the source and its plain twin."""
    for folder in ("a/a/a", "b/c", "d"):
        (root / folder).mkdir(parents=True)
    for number, name in enumerate(("c", "a/b", "a/a/b", "a/a/a/c", "b/a", "d/a", "d/b", "d/c")):
        (root / name).write_bytes(b"%d " % number * (number * number * 4000 + number))
    os.link(root / "c", root / "a/c")
    os.link(root / "d/a", root / "b/b")
    os.symlink("b", root / "a/d")  # none leads out of the grant: such a one is not read
    os.symlink("nowhere", root / "b/d")
    (root / "d/b").chmod(0o750)
    for path in [root, *root.rglob("*")]:
        os.utime(path, ns=(10**18, 10**18), follow_symlinks=False)


class Twins:
    """The same calls below two roots."""

    def __init__(self, mounted: Path, plain: Path, seed: int) -> None:
        self.roots = (str(mounted), str(plain))
        self.rng = random.Random(seed)
        self.open: list[tuple[int, int]] = []
        self.log: list[str] = []

    def both(self, what: str, call: Callable[[str, int], object]) -> list[object]:
        """Make a call below each root; the answers have to be equal."""
        self.log.append(what)
        answers: list[object] = []
        for side, root in enumerate(self.roots):
            try:
                answers.append(call(root, side))
            except OSError as error:
                answers.append(errno.errorcode[error.errno or 0])
        return answers

    def same(self, what: str, call: Callable[[str, int], object]) -> None:
        here, there = self.both(what, call)
        assert here == there, f"{what}: {here!r}, in a plain folder {there!r}"

    def paths(self) -> list[str]:
        """What is there, by the plain folder, "" the root itself."""
        root, found = self.roots[1], [""]
        for folder, folders, files in os.walk(root):
            found += [os.path.relpath(f"{folder}/{name}", root) for name in folders + files]
        return sorted(found)

    def some(self) -> str:
        return self.rng.choice(self.paths()[1:] or ["a"])

    def fresh(self) -> str:
        folders = [p for p in self.paths() if os.path.isdir(f"{self.roots[1]}/{p}")]
        folder = self.rng.choice(folders)
        return os.path.join(folder, self.rng.choice(NAMES)) if folder.count("/") < 5 else "a"

    def any(self) -> str:
        return self.fresh() if self.rng.random() < 0.2 else self.some()

    def is_file(self, path: str) -> bool:
        try:
            return stat.S_ISREG(os.lstat(f"{self.roots[1]}/{path}").st_mode)
        except OSError:
            return False

    def data(self) -> bytes:
        size = self.rng.choice((0, 1, 10, 1000, 5000, 70_000))
        return bytes((self.rng.randrange(97, 123),)) * size

    # -- calls -----------------------------------------------------------------------------

    def step(self) -> None:
        name = self.rng.choices(list(CALLS), list(CALLS.values()))[0]
        getattr(self, name)()

    def opens(self) -> None:
        path, flags = self.any(), self.rng.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR))
        if flags:
            extra = (0, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC, os.O_APPEND)
            flags |= self.rng.choice(extra)
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK
        got: dict[int, int] = {}

        def call(root: str, side: int) -> str:
            got[side] = os.open(f"{root}/{path}", flags, 0o640)
            return "open"

        self.same(f"open {path} {flags:o}", call)
        if got:
            self.open.append((got[0], got[1]))
        if len(self.open) > 8:
            self.close()

    def close(self) -> None:
        if self.open:
            pair = self.open.pop(self.rng.randrange(len(self.open)))
            self.log.append(f"close {pair}")
            for fd in pair:
                os.close(fd)

    def _on_file(self, what: str, call: Callable[[int], object]) -> None:
        if self.open:
            pair = self.rng.choice(self.open)
            self.same(f"{what} of {pair}", lambda _root, side: call(pair[side]))

    def write(self) -> None:
        data, at = self.data(), self.rng.choice((0, 5, 4000, 100_000))
        self._on_file(f"write {len(data)} at {at}", lambda fd: os.pwrite(fd, data, at))

    def append(self) -> None:
        data = self.data()
        self._on_file(f"write {len(data)}", lambda fd: os.write(fd, data))

    def read(self) -> None:
        size, at = self.rng.choice((10, 10_000, 300_000)), self.rng.choice((0, 5, 4000))
        self._on_file(f"read {size} at {at}", lambda fd: os.pread(fd, size, at))

    def fstat(self) -> None:
        self._on_file("fstat", lambda fd: Place.status(os.fstat(fd)))

    def ftruncate(self) -> None:
        size = self.rng.choice((0, 7, 5000, 200_000))
        self._on_file(f"ftruncate {size}", lambda fd: os.ftruncate(fd, size))

    def fsync(self) -> None:
        self._on_file("fsync", os.fsync)

    def map(self) -> None:
        letter = bytes((self.rng.randrange(65, 91),))

        def write(fd: int) -> object:
            try:
                with mmap.mmap(fd, 0) as mapped:
                    mapped[len(mapped) // 2] = letter[0]
                    mapped[0] = letter[0]
                return len(os.pread(fd, 300_000, 0))
            except ValueError:  # empty
                return "empty"

        self._on_file(f"map {letter!r}", write)

    def truncate(self) -> None:
        path, size = self.any(), self.rng.choice((0, 7, 5000, 200_000))
        if not os.path.islink(f"{self.roots[1]}/{path}"):
            self.same(f"truncate {path} {size}", lambda r, _s: os.truncate(f"{r}/{path}", size))

    def save(self) -> None:
        """As editors do: a new file, moved over the old one."""
        path, data = self.any(), self.data()

        def call(root: str, _side: int) -> None:
            Path(f"{root}/{path}.new").write_bytes(data)
            os.rename(f"{root}/{path}.new", f"{root}/{path}")

        if len(path.rpartition("/")[2]) < 200:
            self.same(f"save {path}", call)

    def rename(self) -> None:
        old, new = self.any(), self.rng.choice((self.some, self.fresh))()
        flags = self.rng.choice((0, 0, 0, NOREPLACE, EXCHANGE))
        self.same(
            f"rename {old} {new} {flags}",
            lambda r, _s: renameat2(f"{r}/{old}", f"{r}/{new}", flags),
        )

    def unlink(self) -> None:
        path = self.any()
        self.same(f"unlink {path}", lambda r, _s: os.unlink(f"{r}/{path}"))

    def rmdir(self) -> None:
        path = self.any()
        self.same(f"rmdir {path}", lambda r, _s: os.rmdir(f"{r}/{path}"))

    def rmtree(self) -> None:
        path = self.some()
        real = f"{self.roots[1]}/{path}"
        if self.rng.random() < 0.3 and os.path.isdir(real) and not os.path.islink(real):
            self.same(f"rm -r {path}", lambda r, _s: shutil.rmtree(f"{r}/{path}"))

    def mkdir(self) -> None:
        path, mode = self.fresh(), self.rng.choice((0o755, 0o700, 0o2775))
        self.same(f"mkdir {path} {mode:o}", lambda r, _s: os.mkdir(f"{r}/{path}", mode))

    def link(self) -> None:
        old, new = self.any(), self.fresh()
        self.same(
            f"link {old} {new}",
            lambda r, _s: os.link(f"{r}/{old}", f"{r}/{new}", follow_symlinks=False),
        )

    def symlink(self) -> None:
        path, target = self.fresh(), self.rng.choice(("a", "b/c", "nowhere", "x/" * 100))
        self.same(f"symlink {path} {target}", lambda r, _s: os.symlink(target, f"{r}/{path}"))

    def chmod(self) -> None:
        path, mode = self.any(), self.rng.choice((0o644, 0o600, 0o755, 0o751))
        if not os.path.islink(f"{self.roots[1]}/{path}"):
            self.same(f"chmod {path} {mode:o}", lambda r, _s: os.chmod(f"{r}/{path}", mode))

    def utime(self) -> None:
        path, at = self.any(), self.rng.randrange(10**9) * 10**9 + 123_456_789
        self.same(
            f"utime {path}",
            lambda r, _s: os.utime(f"{r}/{path}", ns=(at, at + 1), follow_symlinks=False),
        )

    def xattr(self) -> None:
        path, name = self.any(), self.rng.choice(("user.a", "user.b"))
        value = self.rng.choice((None, b"", b"value"))
        if not self.is_file(path):
            return
        if value is None:
            self.same(f"removexattr {path}", lambda r, _s: os.removexattr(f"{r}/{path}", name))
        else:
            self.same(f"setxattr {path}", lambda r, _s: os.setxattr(f"{r}/{path}", name, value))

    def listing(self) -> None:
        path = self.any()
        self.same(f"listdir {path}", lambda r, _s: sorted(os.listdir(f"{r}/{path}")))

    def compare(self, *, attributes: bool = True) -> None:
        """The whole trees agree; without extended *attributes* once they are the source's."""
        here, there = (Place(root).tree(attributes=attributes) for root in self.roots)
        wrong = [
            f"{name}: {str(here.get(name))[:200]}, in a plain folder {str(there.get(name))[:200]}"
            for name in sorted({*here, *there})
            if here.get(name) != there.get(name)
        ]
        assert not wrong, "\n".join([*wrong, "after", *self.log[-20:]])

    def let_go(self) -> None:
        while self.open:
            self.close()


CALLS = {
    "opens": 9, "close": 4, "write": 6, "append": 3, "read": 4, "fstat": 2, "ftruncate": 2,
    "fsync": 1, "map": 3, "truncate": 3, "save": 4, "rename": 12, "unlink": 5, "rmdir": 3,
    "rmtree": 1, "mkdir": 6, "link": 5, "symlink": 2, "chmod": 3, "utime": 2, "xattr": 3,
    "listing": 2,
}  # fmt: skip


def rounds(grantfs: Grantfs, seed: int, count: int, steps: int, *options: str) -> None:
    """Random calls; after each round the mount goes down and up, at the end all is committed."""
    base = grantfs.home.parent
    source, plain = base / "proj", base / "plain"
    for root in (source, plain):
        root.mkdir()
        fill(root)
    mount = grantfs.up(source, "--name", "w", "--mount", base / "m", *options)
    twins = Twins(mount / "proj", plain, seed)
    try:
        for _ in range(count):
            for number in range(steps):
                twins.step()
                if number % 50 == 49:
                    twins.compare()
            twins.let_go()
            grantfs.run("down")
            grantfs.up("--name", "w")
            twins.compare()
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}\n" + "\n".join(twins.log[-30:])) from None
    finally:
        twins.let_go()
    done = grantfs.run("commit", "-y", "--json", code=None)
    assert done.json["remaining"] == [], f"seed {seed}: {done.err}"
    assert grantfs.status() == {}
    twins.compare(attributes=False)
    left, right = Place(str(source)).tree(), Place(str(plain)).tree()
    assert left.keys() == right.keys()
    for name, (status, content, xattrs) in left.items():  # type: ignore[misc]
        assert (status[0], status[2:], content, xattrs) == (
            right[name][0][0], right[name][0][2:], *right[name][1:]  # type: ignore[index]
        ), (name, seed)  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_hundreds_of_random_calls(grantfs: Grantfs, seed: int) -> None:
    rounds(grantfs, seed, 2, 200)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(100, 140))
def test_thousands_of_random_calls(grantfs: Grantfs, seed: int) -> None:
    rounds(grantfs, seed, 3, 500)
