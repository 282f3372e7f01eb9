"""An agent that works in a mounted folder until the daemon dies, and does the same in a twin.

A program: `crash_agent.py MOUNTED TWIN SEED MIX`. Each call is made in the mounted folder first,
and in the twin when it has returned; so the twin holds what must survive. It prints a line for each
call that returned, and last the one that did not, as JSON. A result other than the twin's ends it.
"""

import errno
import json
import os
import random
import sys
from typing import Any

DEAD = (errno.ENOTCONN, errno.ECONNABORTED, errno.EINTR)
"""How a call ends that the dead daemon had not answered."""

NAMES = [f"{letter}{'-' * 40}" for letter in "abcdefg"]
MIXES = {
    "files": {
        "create": 6,
        "write": 8,
        "truncate": 3,
        "rename": 5,
        "unlink": 3,
        "sync": 2,
        "link": 2,
    },
    "folders": {"mkdir": 3, "rename folder": 12, "create": 2, "rmdir": 1, "exchange": 3},
    "rows": {
        "create": 4,
        "chmod": 8,
        "utime": 8,
        "xattr": 8,
        "symlink": 2,
        "unlink": 2,
        "mkdir": 1,
    },
}
"""What an agent does, by weight; `rows` fills the database's log, so that it is folded in often."""

Call = tuple[str, list[Any]]


def do(root: str, call: Call) -> object:
    """Make one call below *root*: one request to a file system each, beside look-ups."""
    name, arguments = call
    path = f"{root}/{arguments[0]}"
    if name == "create":
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    elif name == "write":
        fd = os.open(path, os.O_WRONLY)
        try:
            return os.pwrite(fd, arguments[2].encode() * arguments[3], arguments[1])
        finally:
            os.close(fd)
    elif name == "truncate":
        os.truncate(path, arguments[1])
    elif name in ("rename", "rename folder"):
        os.rename(path, f"{root}/{arguments[1]}")
    elif name == "exchange":
        from exchange import exchange

        exchange(path, f"{root}/{arguments[1]}")
    elif name == "unlink":
        os.unlink(path)
    elif name == "mkdir":
        os.mkdir(path)
    elif name == "rmdir":
        os.rmdir(path)
    elif name == "link":
        os.link(path, f"{root}/{arguments[1]}")
    elif name == "symlink":
        os.symlink("nowhere", path)
    elif name == "chmod":
        os.chmod(path, arguments[1])
    elif name == "utime":
        os.utime(path, ns=(arguments[1], arguments[1]))
    elif name == "xattr":
        os.setxattr(path, "user.k", arguments[1].encode())
    elif name == "sync":
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    else:
        raise AssertionError(name)
    return None


def tree(root: str) -> dict[str, tuple[object, ...]]:
    """All below a folder, by what a crash must not change."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = f"{folder}/{name}"
            status = os.lstat(path)
            content: object = None
            if os.path.islink(path):
                content = os.readlink(path)
            elif name in files:
                with open(path, "rb") as file:
                    content = file.read()
            xattr = b""
            if not os.path.islink(path) and "user.k" in os.listxattr(path):
                xattr = os.getxattr(path, "user.k")
            found[os.path.relpath(path, root)] = (status.st_mode, status.st_nlink, content, xattr)
    return found


class Chooser:
    """Chooses calls by what the twin holds."""

    def __init__(self, twin: str, seed: int, mix: str) -> None:
        self.twin = twin
        self.rng = random.Random(seed)
        self.mix = MIXES[mix]

    def _known(self) -> tuple[list[str], list[str]]:
        folders, files = [""], []
        for folder, inner, names in os.walk(self.twin):
            folders += [os.path.relpath(f"{folder}/{name}", self.twin) for name in inner]
            files += [os.path.relpath(f"{folder}/{name}", self.twin) for name in names]
        return sorted(folders), sorted(files)

    def call(self) -> Call:
        rng = self.rng
        folders, files = self._known()
        file = rng.choice(files or ["missing"])
        folder = rng.choice(folders[1:] or ["missing"])
        fresh = os.path.join(
            rng.choice([f for f in folders if f.count("/") < 4]), rng.choice(NAMES)
        )
        name = rng.choices(list(self.mix), list(self.mix.values()))[0]
        if len(files) + len(folders) > 60 and name in ("create", "mkdir", "link", "symlink"):
            name = "unlink" if files else "rmdir"
        if os.path.islink(f"{self.twin}/{file}") and name not in ("unlink", "rename"):
            file = "missing"
        arguments: dict[str, list[Any]] = {
            "write": [
                file,
                rng.choice((0, 3, 9000)),
                rng.choice("xyz"),
                rng.choice((1, 4000, 60_000)),
            ],
            "truncate": [file, rng.choice((0, 5, 20_000))],
            "rename": [file, rng.choice((fresh, rng.choice(files or ["missing"])))],
            "rename folder": [folder, rng.choice((fresh, rng.choice(folders[1:] or ["missing"])))],
            "exchange": [folder, rng.choice(folders[1:] or ["missing"])],
            "unlink": [file],
            "rmdir": [folder],
            "link": [file, fresh],
            "chmod": [file, rng.choice((0o600, 0o644, 0o755))],
            "utime": [file, rng.randrange(10**18)],
            "xattr": [file, rng.choice("kv") * rng.randrange(200)],
            "sync": [file],
        }
        return name, arguments.get(name, [fresh])


def main(mounted: str, twin: str, seed: str, mix: str) -> int:
    chooser = Chooser(twin, int(seed), mix)
    while True:
        call = chooser.call()
        try:
            here: object = do(mounted, call)
        except OSError as error:
            if error.errno in DEAD:
                print(json.dumps(call), flush=True)
                return 0
            here = os.strerror(error.errno or 0)
        name, arguments = call
        if name == "write" and isinstance(here, int) and here < arguments[3]:
            # The kernel sends a long write in parts, and the daemon died between two of them.
            path, offset, letter, size = arguments
            do(twin, (name, [path, offset, letter, here]))
            print(json.dumps((name, [path, offset + here, letter, size - here])), flush=True)
            return 0
        try:
            there: object = do(twin, call)
        except OSError as error:
            there = os.strerror(error.errno or 0)
        if here != there:
            print(f"{call}: {here}, in the twin {there}", file=sys.stderr)
            return 1
        print("returned", flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
