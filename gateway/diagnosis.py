"""What this machine lacks for grantfs, and the command that mends it: for `doctor`."""

import os
import shutil
import sys
from typing import Any

from gateway.places import Places


def _check(check: str, ok: bool, detail: str, fix: str = "", *, required: bool) -> dict[str, Any]:
    return {"check": check, "ok": ok, "detail": detail, "fix": fix, "required": required}


def checks(places: Places) -> list[dict[str, Any]]:
    """Every check as `{check, ok, detail, fix, required}`; only required ones must hold."""
    return [
        _python(), _fuse_device(), _fusermount(), _pyfuse3(), _scanner(places), _keyring(),
        _policy(places), _state(places), _bubblewrap(),
    ]  # fmt: skip


def _python() -> dict[str, Any]:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = sys.version_info >= (3, 11)
    return _check("python", ok, version, "install Python 3.11 or newer", required=True)


def _fuse_device() -> dict[str, Any]:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return _check("/dev/fuse", False, "is missing", "sudo modprobe fuse", required=True)
    except OSError as error:
        fix = "sudo chmod 666 /dev/fuse"
        return _check("/dev/fuse", False, error.strerror or str(error), fix, required=True)
    return _check("/dev/fuse", True, "can be opened", required=True)


def _fusermount() -> dict[str, Any]:
    path = shutil.which("fusermount3")
    fix = "sudo apt-get install fuse3"
    # root mounts by itself; everybody else through this helper
    needed = os.getuid() != 0
    if path is not None and not os.path.exists("/etc/mtab"):
        fix = "sudo ln -s ../proc/self/mounts /etc/mtab"
        why = "cannot unmount: /etc/mtab is missing"
        return _check("fusermount3", False, why, fix, required=needed)
    return _check("fusermount3", path is not None, path or "is missing", fix, required=needed)


def _pyfuse3() -> dict[str, Any]:
    try:
        import vfs.fuse as adapter
    except ImportError as error:
        fix = "sudo apt-get install libfuse3-dev pkg-config gcc && pip install pyfuse3"
        return _check("pyfuse3", False, str(error), fix, required=True)
    return _check("pyfuse3", True, adapter.LIBRARY, required=True)


def _scanner(places: Places) -> dict[str, Any]:
    try:
        from gateway.daemon import rulepacks
        from gateway.daemon.redaction import build_engine
        from policies.packs import PackError
        from vfs.redaction import RuleError, propose

        try:
            rules = rulepacks.load(rulepacks.folders(places))
            engine = build_engine(rules, None)
        except (PackError, RuleError) as error:
            fix = "mend the rule pack, or move it out of its folder"
            return _check("scanner", False, str(error), fix, required=True)
        findings = engine.find(b"github_token = ghp_" + b"16C7e42F292c6912E7710c838347Ae178B4a\n")
    except Exception as error:
        fix = "pip install hyperscan google-re2"
        return _check("scanner", False, f"{type(error).__name__}: {error}", fix, required=True)
    detail = "finds secrets" if findings else "found no secret in a text that holds one"
    if findings and propose.hyperscan is None:
        detail += f"; {propose.WITHOUT}, and a slower engine serves: pip install hyperscan==0.7.13"
    return _check("scanner", bool(findings), detail, "reinstall grantfs", required=True)


def _keyring() -> dict[str, Any]:
    from gateway.authority.keys import keyring_name
    from gateway.authority.keystore_warning import FILE_WARNING

    name = keyring_name()
    fix = "run a Secret Service (gnome-keyring, KeePassXC, KWallet) before making a workspace"
    return _check("keyring", name is not None, name or FILE_WARNING, fix, required=False)


def _policy(places: Places) -> dict[str, Any]:
    from gateway.daemon.workspace import managed_folders
    from policies.loader import find_problems

    problems = find_problems(managed_folders(places), places.user_policy, None)
    detail = "; ".join(str(problem) for problem in problems) or "every file can be used"
    return _check("policy", not problems, detail, "mend or remove the file named", required=True)


def _state(places: Places) -> dict[str, Any]:
    folder = places.state
    while not folder.exists():
        folder = folder.parent
    ok = os.access(folder, os.W_OK)
    space = os.statvfs(folder)
    free = space.f_bavail * space.f_frsize
    detail = f"{places.state}, {free // (1 << 20)} MiB free"
    ok = ok and free > 64 << 20
    return _check("state folder", ok, detail, "free some space or set GRANTFS_HOME", required=True)


def _bubblewrap() -> dict[str, Any]:
    path = shutil.which("bwrap")
    detail = path or "is missing (needed to run agents in a sandbox)"
    return _check("bubblewrap", path is not None, detail, "sudo apt-get install bubblewrap",
                  required=False)  # fmt: skip
