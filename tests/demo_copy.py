"""What the demo stands on: a copy of a folder with invented credentials planted in it."""

import os
import random
import shutil
import stat
import string
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.demo_tools import interrupts

LARGEST_BYTES = 200 * 1000 * 1000
MOST_FILES = 20_000
"""Above these a folder is copied only when told."""

LEFT_OUT = frozenset({".git", ".venv", "node_modules", "__pycache__"})
"""Not copied from a folder that is not a git repository."""

_TEXT_BYTES = 64 * 1024
_DOCUMENTS = (".md", ".txt", ".rst")


class Refused(Exception):
    """The folder cannot be used; the message says why and what to do."""


@dataclass(slots=True)
class Stand:
    """The copy. Names are relative to `source`; `values` are the planted secrets by their names,
    `text` the whole of the settings file that holds most of them."""

    source: Path
    has_git: bool
    told: list[str] = field(default_factory=list)
    secrets: str = ""
    key: str = ""
    text: str = ""
    values: dict[str, str] = field(default_factory=dict)
    saved: str = ""
    removed: str = ""
    moved: str = ""

    def covered(self, text: str) -> str:
        """The text with every planted secret replaced by its length."""
        for value in self.values.values():
            text = text.replace(value, f"<the {len(value)} bytes that were planted>")
        return text


def git_environment(base: Path) -> dict[str, str]:
    """What makes git use the demo's configuration alone, and not mind who owns a repository."""
    config = base / "gitconfig"
    config.write_text("[safe]\n\tdirectory = *\n[core]\n\tfsmonitor = false\n")
    return {"GIT_CONFIG_GLOBAL": str(config), "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(base)}


def _git(base: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"} | git_environment(base)
    with interrupts.held():
        return subprocess.run(
            ["git", *arguments], env=environment, capture_output=True, text=True,
            errors="surrogateescape", stdin=subprocess.DEVNULL, start_new_session=True, check=False,
        )  # fmt: skip


def _is_repository(folder: Path, base: Path) -> bool:
    """True if the folder is the top of a git repository that has a commit."""
    found = _git(base, "-C", str(folder), "rev-parse", "--show-toplevel", "--verify", "HEAD^{tree}")
    return found.returncode == 0 and found.stdout.partition("\n")[0] == str(folder)


def prepare(folder: Path, base: Path, *, large: bool) -> Stand:
    """Copy *folder* into *base* and plant the credentials. Raises Refused."""
    try:
        folder = folder.resolve(strict=True)
        if not folder.is_dir():
            raise Refused(f"{folder} is no folder: name one")
        has_git = shutil.which("git") is not None and _is_repository(folder, base)
        # A name that policy or a shell takes in some special way would be another story.
        name = folder.name if folder.name.replace("-", "a").isalnum() else "folder"
        stand = Stand(base / name, has_git)
        if has_git:
            _clone(folder, base, stand, large)
        else:
            _copy(folder, stand, large)
        stand.source.chmod(0o755)
        _pick(stand, base)
        _plant(stand)
    except OSError as error:
        raise Refused(f"cannot copy {folder}: {error}; name a folder that you can read") from error
    return stand


def _too_large(folder: Path) -> Refused:
    return Refused(
        f"{folder} is large: more than {LARGEST_BYTES // 1_000_000} MB or {MOST_FILES} files"
        " would be copied; name a smaller folder, or add --large"
    )


def _clone(folder: Path, base: Path, stand: Stand, large: bool) -> None:
    counted = _git(base, "-C", str(folder), "count-objects", "-v").stdout
    sizes = dict(line.split(": ") for line in counted.splitlines() if ": " in line)
    kibibytes = int(sizes.get("size", 0)) + int(sizes.get("size-pack", 0))
    files = _git(base, "-C", str(folder), "ls-files", "-z").stdout.count("\0")
    if not large and (kibibytes * 1024 > LARGEST_BYTES or files > MOST_FILES):
        raise _too_large(folder)
    arguments = ("--quiet", "--no-hardlinks", "--template=", "--", str(folder), str(stand.source))
    done = _git(base, "clone", *arguments)
    if done.returncode:
        raise Refused(f"cannot clone {folder}: {done.stderr.strip()}")
    stand.told.append("$SOURCE is a fresh clone: what git tracks, as it was last committed.")


def _copy(folder: Path, stand: Stand, large: bool) -> None:
    size = 0
    left_out = set()
    for count, (path, kind, length) in enumerate(_walk(folder), 1):
        if path.name in LEFT_OUT:
            left_out.add(path.name)
        size += length if kind == stat.S_IFREG else 0
        if not large and (count > MOST_FILES or size > LARGEST_BYTES):
            raise _too_large(folder)
    stand.source.mkdir()
    for path, kind, _length in _walk(folder):
        target = stand.source / path.relative_to(folder)
        if kind == stat.S_IFDIR and path.name not in LEFT_OUT:
            target.mkdir()
        elif kind == stat.S_IFLNK:
            target.symlink_to(os.readlink(path))
        elif kind == stat.S_IFREG:
            shutil.copy2(path, target, follow_symlinks=False)
    stand.told.append("$SOURCE is a copy of the folder.")
    if left_out:
        stand.told.append(f"Left out of the copy: {', '.join(sorted(left_out))}.")


def _walk(folder: Path) -> Iterator[tuple[Path, int, int]]:
    """(path, file type, size) of all below *folder*, folders first, never through a link; what is
    left out is named but not entered."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            status = entry.stat(follow_symlinks=False)
            path = Path(entry.path)
            yield path, stat.S_IFMT(status.st_mode), status.st_size
            if entry.is_dir(follow_symlinks=False) and entry.name not in LEFT_OUT:
                yield from _walk(path)


# -- credentials ---------------------------------------------------------------------------


def _plant(stand: Stand) -> None:
    """Put invented credentials into new files. They are drawn, so that none stands in this
    repository, with a fixed seed, so that they are the same each time."""
    draw = random.Random(20260101)
    letters = string.ascii_letters + string.digits

    def text(length: int, alphabet: str = letters) -> str:
        return "".join(draw.choice(alphabet) for _ in range(length))

    upper = string.ascii_uppercase + "234567"
    values = {
        "STRIPE_API_KEY": "sk_live_" + text(24),
        "AWS_ACCESS_KEY_ID": "AKIA" + text(16, upper),
        "AWS_SECRET_ACCESS_KEY": text(40),
        "database password": text(16),
        "mail password": text(18),
        "private key": text(68),
    }
    stand.values = values
    assigned = "".join(f"{name}={value}\n" for name, value in values.items() if name.isupper())
    stand.text = (
        f"LOG_LEVEL=info\n{assigned}"
        f"DATABASE_URL=postgres://shop:{values['database password']}@db.internal:5432/shop\n"
    )
    stand.secrets = _free(stand, [".env", ".env.local", ".env.demo"])
    (stand.source / stand.secrets).write_text(stand.text)
    folder = next(
        name for name in ("config", "settings", "demo-config") if _can_hold(stand.source / name)
    )
    (stand.source / folder).mkdir(exist_ok=True)
    settings = _free(stand, [f"{folder}/settings.local.yaml", f"{folder}/settings.demo.yaml"])
    (stand.source / settings).write_text(
        f"mail:\n  host: smtp.internal\n  password: {values['mail password']}\n"
    )
    stand.key = _free(stand, [f"{folder}/id_ed25519", f"{folder}/id_ecdsa"])
    armour = "-----{} OPENSSH PRIVATE KEY-----\n"
    (stand.source / stand.key).write_text(
        armour.format("BEGIN") + values["private key"] + "\n" + armour.format("END")
    )
    untracked = ", and not tracked by git" if stand.has_git else ""
    stand.told.append(
        f"Planted in it, all invented{untracked}: {stand.secrets}, {settings}, {stand.key}."
    )


def _can_hold(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink() if os.path.lexists(folder) else True


def _free(stand: Stand, names: list[str]) -> str:
    for name in names:
        if not os.path.lexists(stand.source / name):
            return name
    raise Refused(f"the folder has each of {', '.join(names)}: nowhere to plant; name another")


# -- what the agent works on ---------------------------------------------------------------


def _pick(stand: Stand, base: Path) -> None:
    """Choose three ordinary text files to save, delete and rename; plant what is missing."""
    if stand.has_git:
        listed = _git(base, "-C", str(stand.source), "ls-files", "-z").stdout
        names = [name for name in listed.split("\0") if name]
    else:
        names = [str(path.relative_to(stand.source)) for path, _kind, _size in _walk(stand.source)]
    found = [name for name in names if _is_ordinary(stand, name)]
    found.sort(key=lambda name: (not name.endswith(_DOCUMENTS), name.count("/"), name))
    chosen = found[:3]
    while len(chosen) < 3:
        name = _free(stand, [f"note-{len(chosen)}.txt", f"demo-note-{len(chosen)}.txt"])
        (stand.source / name).write_text(f"An old note, number {len(chosen)}.\n")
        stand.told.append(f"Planted too, for the agent to work on: {name}.")
        chosen.append(name)
    stand.saved, stand.removed, stand.moved = chosen


def _is_ordinary(stand: Stand, name: str) -> bool:
    path = stand.source / name
    if any(part.startswith((".", "-")) for part in Path(name).parts) or not name.isprintable():
        return False
    try:
        status = path.lstat()
        # Through no link: `lstat` looks at the last part of the name alone.
        if not stat.S_ISREG(status.st_mode) or path.parent.resolve() != path.parent:
            return False
        if status.st_nlink > 1 or status.st_size > _TEXT_BYTES or not os.access(path, os.W_OK):
            return False
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        return False
    return text.endswith("\n") and "\0" not in text


def remove(folder: Path) -> None:
    """Remove the temporary folder, read-only folders in it included."""
    for path, _folders, _files in os.walk(folder):
        os.chmod(path, 0o700)
    shutil.rmtree(folder)
