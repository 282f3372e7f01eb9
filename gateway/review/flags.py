"""Risk flags: what a person must not overlook in a change. Pure; never folded away.

A list of names cannot know every file that a host program runs later; it marks the well-known
ones, and the flag says so by being a flag and no promise.
"""

import re
import stat
import unicodedata
from fnmatch import translate

from vfs.names import leaves

_RUNS_LATER = (
    # git and its hosts
    ".git/hooks/*", ".git/config", ".git/info/attributes", ".gitattributes", ".gitmodules",
    ".githooks/*", ".husky/*", ".pre-commit-config.yaml", "lefthook.yml", ".lefthook.yml",
    ".github/workflows/*", ".github/actions/*", ".gitlab-ci.yml", ".circleci/*", "Jenkinsfile",
    "azure-pipelines.yml", "bitbucket-pipelines.yml", ".travis.yml", ".drone.yml",
    ".buildkite/*", "appveyor.yml",
    # shells, editors and desktops
    ".bashrc", ".bash_profile", ".bash_login", ".bash_logout", ".bash_aliases", ".profile",
    ".zshrc", ".zshenv", ".zprofile", ".zlogin", ".inputrc", ".envrc", ".config/fish/*",
    ".vimrc", ".exrc", ".nvimrc", ".config/nvim/*", ".emacs", ".emacs.d/*", ".tmux.conf",
    ".vscode/*", ".idea/*", "*.code-workspace", ".devcontainer/*", ".devcontainer.json",
    "*.desktop", ".config/autostart/*", "*.service", "*.timer", "crontab", "cron.*/*",
    ".ssh/rc", ".ssh/config",
    # what agents obey
    ".claude/*", ".cursor/*", ".mcp.json", "CLAUDE.md", "AGENTS.md", ".cursorrules",
    # builds and packages
    "package.json", ".npmrc", ".yarnrc.yml", "Makefile", "GNUmakefile", "makefile", "*.mk",
    "justfile", "Taskfile.yml", "CMakeLists.txt", "meson.build", "configure", "build.rs",
    ".cargo/config.toml", "setup.py", "setup.cfg", "pyproject.toml", "tox.ini", "noxfile.py",
    "conftest.py", "sitecustomize.py", "usercustomize.py", "*.pth", "*.pyc", ".venv/*", "venv/*",
    "Rakefile", "Gemfile", "*.gemspec", "build.gradle", "build.gradle.kts", "gradlew", "pom.xml",
    "Dockerfile", "docker-compose.yml", "compose.yaml", "Vagrantfile",
)  # fmt: skip
_LATER = re.compile(r"(?:\A|/)(?:" + "|".join(map(translate, _RUNS_LATER)) + ")")
_LOCK_FILES = frozenset(
    {
        "package-lock.json", "yarn.lock", "pnpm-lock.yaml", "Cargo.lock", "poetry.lock",
        "Pipfile.lock", "uv.lock", "composer.lock", "Gemfile.lock", "go.sum",
    }
)  # fmt: skip
_INVISIBLE = frozenset(
    "\u00ad\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e"
    "\u2060\u2066\u2067\u2068\u2069\ufeff\u061c\u180e"
)
_LOOKALIKES = frozenset({"CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU"})
_LATIN_LOOKING = frozenset("асеорхуіјѕһԁԛԝАВСЕНІЈКМОРЅТХУοΑΒΕΖΗΙΚΜΝΟΡΤΥΧ")
LARGE_BYTES = 10 * 1024 * 1024
"""A change of this size or more is flagged: nobody reads it."""


def runs_later(path: str) -> bool:
    """True for a file that programs of the host are known to run or obey by themselves."""
    return _LATER.search(path) is not None


def hides_text(old: bytes | None, new: bytes | None) -> bool:
    """True if invisible or bidirectional characters came in with the change."""
    if new is None:
        return False
    before = set((old or b"").decode(errors="ignore")) & _INVISIBLE
    now = set(new.decode(errors="ignore")) & _INVISIBLE
    return bool(now - before)


def is_confusable(path: str) -> bool:
    """True if a word of a name mixes Latin letters with those of a script that look like them, or
    consists of such letters alone."""
    if path.isascii():
        return False
    for word in "".join(c if c.isalpha() else " " for c in path).split():
        scripts = {unicodedata.name(c, "").partition(" ")[0] for c in word}
        if "LATIN" in scripts and not scripts.isdisjoint(_LOOKALIKES):
            return True
        if len(word) > 1 and _LATIN_LOOKING.issuperset(word):
            return True
    return False


def exposes(place: bytes, old_place: bytes | None, old_mode: int | None, new_mode: int) -> bool:
    """True if what stood at the old place can be read by others, or in another folder, now."""
    if old_place is not None and old_place.rpartition(b"/")[0] != place.rpartition(b"/")[0]:
        return True
    return bool(new_mode & 0o044 & ~(old_mode or 0o044))


def flags_for(
    path: str,
    place: str,
    old_mode: int | None,
    new_mode: int | None,
    old: bytes | None,
    new: bytes | None,
    binary: bool,
    links: int = 1,
    attributes: bool = False,
    owner: bool = False,
) -> list[str]:
    """The flags of one change. `path` names it in the mount, `place` within its grant; modes have
    type bits; `old` and `new` are masked contents or link targets, None where there are none;
    `links` is the number of names that the new side has in the mount, `attributes` tells if
    extended attributes are set or removed, `owner` if the owner or group becomes another."""
    found = []
    if new_mode is None:
        found.append("deleted")
    elif stat.S_ISLNK(new_mode):
        found.append("symlink")
        if leaves(place.encode("utf-8", "surrogateescape"), new or b""):
            found.append("leaves-grant")
    elif stat.S_ISREG(new_mode):
        if new_mode & 0o111 and not (old_mode or 0) & 0o111:
            found.append("executable")
        if new_mode & 0o6000:  # whoever owns it, what it runs is new
            found.append("setuid")
        if links > 1:
            found.append("hard-link")
    elif not stat.S_ISDIR(new_mode):
        found.append("special")
    if old_mode is not None and new_mode is not None and old_mode != new_mode:
        found.append("mode")
    if owner:
        found.append("owner")
    if attributes:
        found.append("xattr")
    if runs_later(place):
        found.append("runs-later")
    if path.rpartition("/")[2] in _LOCK_FILES:
        found.append("lock-file")
    if ".git" in place.split("/"):
        found.append("git")
    if binary:
        found.append("binary")
    if max(len(old or b""), len(new or b"")) >= LARGE_BYTES:
        found.append("large")
    if hides_text(old, new) or any(c in _INVISIBLE for c in path):
        found.append("invisible-unicode")
    if is_confusable(path):
        found.append("confusable-name")
    return found
