"""An agent that does things at random, but the same ones for the same seed."""

import os
import random

from core_agent import EXCHANGE, Agent, File

NAMES = (b"a", b"b", b"c", b"d\n", b"\xff")
ROOT = b"proj"


class RandomAgent:
    """Steps through file operations; what the file system refuses is refused."""

    def __init__(self, agent: Agent, rng: random.Random, *, keep_open: bool = True) -> None:
        self.agent = agent
        self.rng = rng
        self.keep_open = keep_open
        self.held: list[tuple[File, bytearray]] = []
        self.count = 0

    def path(self) -> bytes:
        """A place, at most three names deep; often one that is there."""
        if self.rng.random() < 0.6:
            found = self._existing()
            if found:
                return self.rng.choice(found)
        depth = self.rng.choice((1, 1, 2, 2, 3))
        return b"/".join([ROOT, *(self.rng.choice(NAMES) for _ in range(depth))])

    def _existing(self) -> list[bytes]:
        found: list[bytes] = []
        stack = [ROOT]
        while stack:
            folder = stack.pop()
            for name in self.agent.listdir(folder):
                path = folder + b"/" + name
                found.append(path)
                if self.is_folder(path) and path.count(b"/") < 3:
                    stack.append(path)
        return found

    def is_folder(self, path: bytes) -> bool:
        return self.agent.lstat(path).mode & 0o170000 == 0o040000

    def data(self) -> bytes:
        self.count += 1
        return b"%d:" % self.count + self.rng.randbytes(self.rng.choice((0, 3, 40))).hex().encode()

    def step(self) -> str:
        """Do one thing; returns what, for a failing test to show."""
        operation = self.rng.choice(OPERATIONS)
        try:
            said = operation(self)
        except OSError as error:
            return f"{operation.__name__}: {os.strerror(error.errno or 0)}"
        return f"{operation.__name__} {said}"

    # -- operations ------------------------------------------------------------------------

    def write(self) -> object:
        path, data = self.path(), self.data()
        self.agent.write(path, data)
        return path, data

    def append(self) -> object:
        path = self.path()
        self.agent.append(path, b"+" + self.data())
        return path

    def truncate(self) -> object:
        path = self.path()
        self.agent.truncate(path, self.rng.choice((0, 1, 5)))
        return path

    def mkdir(self) -> object:
        path = self.path()
        self.agent.mkdir(path, self.rng.choice((0o755, 0o700)))
        return path

    def rename(self) -> object:
        old, new = self.path(), self.path()
        self.agent.rename(old, new)
        return old, new

    def exchange(self) -> object:
        old, new = self.path(), self.path()
        self.agent.rename(old, new, EXCHANGE)
        return old, new

    def cycle(self) -> object:
        one, two, three = self.path(), self.path(), self.path()
        self.agent.rename(one, ROOT + b"/tmp")
        self.agent.rename(two, one)
        self.agent.rename(three, two)
        self.agent.rename(ROOT + b"/tmp", three)
        return one, two, three

    def unlink(self) -> object:
        path = self.path()
        self.agent.unlink(path)
        return path

    def rmdir(self) -> object:
        path = self.path()
        self.agent.rmdir(path)
        return path

    def remove_tree(self) -> object:
        path = self.path()
        self._remove_tree(path)
        return path

    def _remove_tree(self, path: bytes) -> None:
        if not self.is_folder(path):
            self.agent.unlink(path)
            return
        for name in self.agent.listdir(path):
            self._remove_tree(path + b"/" + name)
        self.agent.rmdir(path)

    def recreate(self) -> object:
        path = self.path()
        self._remove_tree(path)
        if self.rng.random() < 0.5:
            self.agent.write(path, self.data())
        else:
            self.agent.mkdir(path)
            self.agent.write(path + b"/" + self.rng.choice(NAMES), self.data())
        return path

    def symlink(self) -> object:
        path = self.path()
        self.agent.symlink(self.rng.choice((b"a", b"nowhere")), path)
        return path

    def link(self) -> object:
        old, new = self.path(), self.path()
        self.agent.link(old, new)
        return old, new

    def chmod(self) -> object:
        path = self.path()
        mode = 0o755 if self.is_folder(path) else self.rng.choice((0o644, 0o600, 0o755))
        if self.is_folder(path):
            mode = self.rng.choice((0o755, 0o700, 0o750))
        self.agent.chmod(path, mode)
        return path, oct(mode)

    def save(self) -> object:
        """As vim and most editors do."""
        path = self.path()
        temporary = path + b".tmp"
        self.agent.write(temporary, self.data())
        self.agent.rename(temporary, path)
        return path

    def save_with_backup(self) -> object:
        path = self.path()
        self.agent.rename(path, path + b"~")
        self.agent.write(path, self.data())
        return path

    def open_and_hold(self) -> object:
        if not self.keep_open:
            return None
        path = self.path()
        file = self.agent.open(path, os.O_RDWR)
        held = bytearray(self.agent.pread(file, 1 << 20, 0))
        for other, content in self.held:
            if other.ino == file.ino:
                held = content
        self.held.append((file, held))
        return path

    def write_held(self) -> object:
        if not self.held:
            return None
        file, _content = self.rng.choice(self.held)
        try:
            self.agent.pwrite(file, self.data(), self.rng.choice((0, 2)))
        except OSError as error:
            raise AssertionError(f"an open file cannot be written: {error}") from error
        return file.ino

    def close_held(self) -> object:
        if self.held:
            file, _content = self.held.pop(self.rng.randrange(len(self.held)))
            self.agent.close(file)
        return None


OPERATIONS = [
    RandomAgent.write, RandomAgent.write, RandomAgent.write, RandomAgent.append,
    RandomAgent.truncate, RandomAgent.mkdir, RandomAgent.mkdir, RandomAgent.rename,
    RandomAgent.rename, RandomAgent.rename, RandomAgent.exchange, RandomAgent.cycle,
    RandomAgent.unlink, RandomAgent.rmdir, RandomAgent.remove_tree, RandomAgent.recreate,
    RandomAgent.recreate, RandomAgent.symlink, RandomAgent.link, RandomAgent.chmod,
    RandomAgent.save, RandomAgent.save_with_backup, RandomAgent.open_and_hold,
    RandomAgent.write_held, RandomAgent.close_held,
]  # fmt: skip
