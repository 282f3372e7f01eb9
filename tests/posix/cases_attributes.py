"""Cases about modes, owners, times, extended attributes, and who may do what."""

import itertools
import os
import stat
from collections.abc import Iterator

from places import (
    UTIME_NOW,
    UTIME_OMIT,
    Place,
    Who,
    case,
    tick,
    utimensat,
)

Steps = Iterator[None]

ONE = Who(65501, 65601)
TWO = Who(65502, 65602, (65601, 65603))
"""Of the other's group, and of a third."""
ROOT = Who(0, 0)


def give(p: Place, name: str, who: Who) -> None:
    """Hand something to a user, as far as whoever runs this may."""
    if os.getuid() == 0:
        mode = stat.S_IMODE(os.lstat(p(name)).st_mode)
        os.lchown(p(name), who.uid, who.gid)
        if not os.path.islink(p(name)):
            os.chmod(p(name), mode)


@case
def modes(p: Place) -> Steps:
    p.file("f")
    p.folder("d")
    os.mkfifo(p("fifo"))
    os.symlink("f", p("link"))
    yield
    for mode in (0o000, 0o777, 0o640, 0o1755, 0o2755, 0o4755, 0o7777, 0o600):
        for name in ("f", "d", "fifo", "link"):
            p.see(os.chmod, p(name), mode)
            p.look(name)
    p.see(os.chmod, p("missing"), 0o600)
    p.see(os.chmod, p("f/x"), 0o600)
    fd = p.open("f")
    p.see(os.fchmod, fd, 0o444)
    p.see(os.write, fd, b"still")
    p.look("f")
    p.moved(os.chmod, p("f"), 0o600, of=("f", ""))
    p.moved(os.chmod, p("f"), 0o600, of=("f", ""))


@case
def owners(p: Place) -> Steps:
    p.file("f")
    p.folder("d")
    os.symlink("f", p("link"))
    yield
    for uid, gid in ((65501, -1), (-1, 65601), (65502, 65602), (-1, -1), (0, 0)):
        for name in ("f", "d"):
            p.see(os.chown, p(name), uid, gid)
            p.look(name)
        p.see(os.lchown, p("link"), uid, gid)
        p.look("link", "f")
    p.moved(os.chown, p("f"), os.getuid(), os.getgid(), of=("f", ""))
    p.see(os.chown, p("missing"), 0, 0)


@case
def set_id_bits_go_when_the_owner_changes(p: Place) -> Steps:
    for number, mode in enumerate((0o6755, 0o6644, 0o2711, 0o2644, 0o4700)):
        p.file(f"f{number}", b"#!/bin/true\n", mode)
        p.folder(f"d{number}", mode)
    yield
    for number in range(5):
        for name in (f"f{number}", f"d{number}"):
            p.see(os.chown, p(name), os.getuid(), -1)
            p.look(name)


@case
def set_id_bits_go_when_another_writes(p: Place) -> Steps:
    for number, name in enumerate(("write", "cut", "open", "map", "chown", "chmod", "own")):
        p.file(name, b"0123456789", 0o6777)
        give(p, name, ONE)
        os.chmod(p(name), 0o6777)
        assert number >= 0
    os.chmod(p(""), 0o777)
    yield

    def act(q: Place) -> None:
        fd = q.opens("write")
        if fd >= 0:
            q.see(os.write, fd, b"x")
        q.look("write")
        q.see(os.truncate, q("cut"), 5)
        q.look("cut")
        q.opens("open", os.O_WRONLY | os.O_TRUNC)
        q.look("open")
        q.see(os.chown, q("chown"), -1, 65603)
        q.see(os.chmod, q("chmod"), 0o777)
        q.see(os.utime, q("chmod"))

    p.as_user(TWO, act)
    p.as_user(ONE, lambda q: q.see(os.truncate, q("own"), 3))
    p.look("own")
    p.as_user(ROOT, lambda q: q.see(os.truncate, q("own"), 2))
    p.look("own", "write", "cut", "open", "chown", "chmod")


@case
def who_may_chmod_and_chown(p: Place) -> Steps:
    for name in ("f", "g"):
        p.file(name, b"x", 0o664)
        give(p, name, ONE)
    p.folder("d")
    give(p, "d", ONE)
    os.chmod(p(""), 0o777)
    yield

    def stranger(q: Place) -> None:
        for name in ("f", "d"):
            q.see(os.chmod, q(name), 0o666)
            q.see(os.chown, q(name), 65502, -1)
            q.see(os.chown, q(name), -1, 65603)
            q.see(os.chown, q(name), -1, -1)

    def owner(q: Place) -> None:
        for name in ("f", "d"):
            q.see(os.chmod, q(name), 0o2755)
            q.look(name)
            q.see(os.chown, q(name), 65501, 65601)
            q.look(name)
            q.see(os.chown, q(name), 65502, -1)
            q.see(os.chown, q(name), -1, 65603)
            q.see(os.chown, q(name), -1, 65601)
            q.look(name)

    def member(q: Place) -> None:
        # The owner, now of a group that the file is not of.
        for name in ("f", "d"):
            q.see(os.chown, q(name), -1, 65603)
            q.see(os.chmod, q(name), 0o2770)
            q.look(name)

    p.as_user(TWO, stranger)
    p.as_user(ONE, owner)
    p.as_user(Who(65501, 65602, (65603,)), member)
    p.see(os.chown, p("g"), -1, 65699)
    p.as_user(ONE, lambda q: (q.see(os.chmod, q("g"), 0o2775), q.look("g")))


@case
def access_by_class(p: Place) -> Steps:
    for mode in range(0, 0o1000, 0o111):
        p.file(f"f{mode:o}", b"x", mode)
        p.folder(f"d{mode:o}", 0o755)
        p.file(f"d{mode:o}/in", b"x")
    for shift in (0, 3, 6):
        for bits in range(8):
            name = f"m{shift}{bits}"
            p.file(name, b"x", bits << shift)
            give(p, name, ONE)
    for mode in range(0, 0o1000, 0o111):
        os.chmod(p(f"d{mode:o}"), mode)
        give(p, f"d{mode:o}", ONE)
    os.chmod(p(""), 0o755)
    yield

    def look(q: Place) -> None:
        for mode in range(0, 0o1000, 0o111):
            q.see(lambda m=mode: sorted(os.listdir(q(f"d{m:o}"))))
            q.see(os.stat, q(f"d{mode:o}/in"))
            q.opens(f"d{mode:o}/new-{os.getuid()}-{os.getgid()}", os.O_CREAT | os.O_WRONLY)
            q.see(os.chdir, q(f"d{mode:o}"))
        for shift, bits in itertools.product((0, 3, 6), range(8)):
            name = f"m{shift}{bits}"
            q.opens(name, os.O_RDONLY)
            q.opens(name, os.O_WRONLY)
            q.opens(name, os.O_RDWR | os.O_TRUNC)
            for how in (os.R_OK, os.W_OK, os.X_OK):
                q.see(os.access, q(name), how)
            q.see(os.truncate, q(name), 1)

    p.as_user(ONE, look)
    p.as_user(Who(65502, 65601), look)
    p.as_user(Who(65503, 65603), look)
    p.as_user(ROOT, look)


@case
def supplementary_groups_count(p: Place) -> Steps:
    p.folder("d", 0o770)
    p.file("d/f", b"x", 0o660)
    for name in ("d", "d/f"):
        give(p, name, ONE)
    yield

    def act(q: Place) -> None:
        q.see(os.listdir, q("d"))
        q.opens("d/f", os.O_RDWR)
        q.opens("d/new", os.O_CREAT | os.O_WRONLY)
        q.look("d/new")
        q.see(os.rename, q("d/new"), q("d/renamed"))
        q.see(os.unlink, q("d/renamed"))

    p.as_user(TWO, act)
    p.as_user(Who(65502, 65602), act)


@case
def new_objects_belong_to_who_makes_them(p: Place) -> Steps:
    p.folder("d", 0o777)
    p.folder("setgid", 0o2777)
    p.folder("others", 0o2777)
    give(p, "setgid", Who(65509, 65603))
    give(p, "others", Who(65509, 65609))
    for name in ("setgid", "others"):
        os.chmod(p(name), 0o2777)
    yield

    def act(q: Place) -> None:
        for folder in ("d", "setgid", "others"):
            name = f"{folder}/{os.getuid()}"
            q.opens(f"{name}f", os.O_CREAT | os.O_WRONLY, 0o664)
            q.opens(f"{name}x", os.O_CREAT | os.O_WRONLY, 0o2775)
            q.see(os.mkdir, q(f"{name}d"), 0o775)
            q.see(os.mkdir, q(f"{name}d/sub"))
            q.see(os.symlink, "x", q(f"{name}l"))
            q.see(os.mkfifo, q(f"{name}p"))
            q.see(os.mknod, q(f"{name}n"), stat.S_IFREG | 0o644)
            q.see(os.mknod, q(f"{name}c"), stat.S_IFCHR | 0o644, os.makedev(1, 3))
            q.look(*(name + end for end in ("f", "x", "d", "d/sub", "l", "p", "n")))

    for who in (ONE, TWO, ROOT):
        p.as_user(who, act)


@case
def sticky_folders(p: Place) -> Steps:
    p.folder("tmp", 0o1777)
    p.folder("free", 0o777)
    for folder in ("tmp", "free"):
        for number in range(9):
            p.file(f"{folder}/f{number}", b"x", 0o666)
            give(p, f"{folder}/f{number}", ONE)
            p.folder(f"{folder}/d{number}", 0o777)
            give(p, f"{folder}/d{number}", ONE)
    yield

    def act(q: Place) -> None:
        for folder in ("tmp", "free"):
            own = f"{folder}/own{os.getuid()}"
            q.opens(own, os.O_CREAT | os.O_WRONLY)
            q.see(os.unlink, q(f"{folder}/f0"))
            q.see(os.rmdir, q(f"{folder}/d0"))
            q.see(os.rename, q(f"{folder}/f1"), q(f"{folder}/g1"))
            q.see(os.rename, q(f"{folder}/d1"), q(f"{folder}/e1"))
            q.see(os.rename, q(own), q(f"{folder}/f2"))
            q.see(os.link, q(f"{folder}/f3"), q(f"{folder}/hard{os.getuid()}"))
            q.opens(f"{folder}/f4", os.O_WRONLY | os.O_APPEND)
            q.opens(f"{folder}/f4", os.O_WRONLY | os.O_CREAT)
            q.opens(f"{folder}/f4", os.O_WRONLY | os.O_TRUNC)

    p.as_user(TWO, act)
    p.as_user(ONE, act)
    p.as_user(ROOT, act)
    for folder in ("tmp", "free"):
        p.see(lambda f=folder: sorted(os.listdir(p(f))))


@case
def removing_needs_the_folder_and_not_the_file(p: Place) -> Steps:
    p.folder("d", 0o755)
    p.file("d/f", b"x", 0o666)
    p.folder("own", 0o777)
    p.file("own/f", b"x", 0o000)
    p.folder("own/sub", 0o700)
    p.folder("own/full", 0o700)
    p.file("own/full/f")
    yield

    def act(q: Place) -> None:
        q.see(os.unlink, q("d/f"))
        q.see(os.rename, q("d/f"), q("own/g"))
        q.see(os.rename, q("own/sub"), q("own/moved"))
        q.see(os.rmdir, q("own/moved"))
        q.see(os.rename, q("own/full"), q("d/full"))
        q.see(os.rename, q("own/full"), q("own/kept"))
        q.see(os.rmdir, q("own/full"))
        q.see(os.unlink, q("own/f"))

    p.as_user(TWO, act)
    p.see(lambda: sorted(os.listdir(p("own"))))


@case
def moving_a_folder_needs_to_write_to_it(p: Place) -> Steps:
    # Its `..` changes, so a folder that one may not write to stays under its parent.
    p.folder("a", 0o777)
    p.folder("b", 0o777)
    p.folder("a/readonly", 0o555)
    p.folder("a/own", 0o777)
    yield

    def act(q: Place) -> None:
        q.see(os.rename, q("a/readonly"), q("a/renamed"))
        q.see(os.rename, q("a/renamed"), q("b/renamed"))
        q.see(os.rename, q("a/own"), q("b/own"))

    p.as_user(TWO, act)
    p.look("a", "b")


@case
def links_to_what_is_not_ones_own(p: Place) -> Steps:
    p.folder("d", 0o777)
    p.file("d/readable", b"x", 0o644)
    p.file("d/writable", b"x", 0o666)
    p.file("d/setuid", b"x", 0o4777)
    yield

    def act(q: Place) -> None:
        for name in ("readable", "writable", "setuid"):
            q.see(os.link, q(f"d/{name}"), q(f"d/{name}.{os.getuid()}"))

    p.as_user(TWO, act)


@case
def times(p: Place) -> Steps:
    p.file("f")
    p.folder("d")
    os.symlink("f", p("link"))
    yield
    for name in ("f", "d"):
        for at in (0, 1, 1_700_000_000_123_456_789, (1 << 31) * 10**9, 4_000_000_000_999_999_999):
            p.see(os.utime, p(name), ns=(at, at + 1))
            status = os.stat(p(name))
            p.note("times", (status.st_atime_ns, status.st_mtime_ns))
        p.see(os.utime, p(name), ns=(-1_000_000_001, -1))
        status = os.stat(p(name))
        p.note("before 1970", (status.st_atime_ns, status.st_mtime_ns))
    p.see(utimensat, p("f"), UTIME_OMIT, 5)
    p.note("omitted", os.stat(p("f")).st_mtime_ns)
    p.see(utimensat, p("f"), 7, UTIME_OMIT)
    p.note("omitted", (os.stat(p("f")).st_atime_ns, os.stat(p("f")).st_mtime_ns))
    p.moved(utimensat, p("f"), UTIME_OMIT, UTIME_OMIT, of=("f",))
    p.moved(utimensat, p("f"), UTIME_NOW, UTIME_OMIT, of=("f",))
    p.moved(utimensat, p("f"), UTIME_OMIT, UTIME_NOW, of=("f",))
    p.moved(os.utime, p("f"), of=("f", ""))
    p.moved(os.utime, p("d"), of=("d", ""))
    p.see(utimensat, p("f"), 1_000_000_000, 0)
    p.see(os.utime, p("link"), ns=(11, 12), follow_symlinks=False)
    p.note("link", os.lstat(p("link")).st_mtime_ns)
    p.see(os.utime, p("missing"))


@case
def who_may_set_times(p: Place) -> Steps:
    for name, mode in (("writable", 0o666), ("readable", 0o644), ("closed", 0o600)):
        p.file(name, b"x", mode)
        give(p, name, ONE)
    os.chmod(p(""), 0o777)
    yield

    def act(q: Place) -> None:
        for name in ("writable", "readable", "closed", "missing"):
            q.see(os.utime, q(name))
            q.see(os.utime, q(name), ns=(1, 2))
            q.see(utimensat, q(name), UTIME_NOW, UTIME_OMIT)
            q.see(utimensat, q(name), UTIME_NOW, UTIME_NOW)
            q.see(utimensat, q(name), UTIME_OMIT, UTIME_OMIT)

    for who in (TWO, ONE, ROOT):
        p.as_user(who, act)


@case
def sizes_and_times_of_a_change_are_seen_at_once(p: Place) -> Steps:
    p.file("f", b"12345")
    yield
    p.look("f")
    for number in range(5):
        before = os.stat(p("f"))
        tick()
        with open(p("f"), "ab") as file:
            file.write(b"x" * number)
        after = os.stat(p("f"))
        p.note("grown", after.st_size - before.st_size)
        p.note("later", (after.st_mtime_ns > before.st_mtime_ns, number))


@case
def extended_attributes(p: Place) -> Steps:
    p.file("f")
    p.folder("d")
    os.symlink("f", p("link"))
    os.mkfifo(p("fifo"))
    yield
    for name in ("f", "d"):
        path = p(name)
        p.see(os.getxattr, path, "user.none")
        p.see(os.setxattr, path, "user.one", b"1")
        p.see(os.setxattr, path, "user.one", b"2", os.XATTR_CREATE)
        p.see(os.setxattr, path, "user.one", b"2", os.XATTR_REPLACE)
        p.see(os.setxattr, path, "user.two", b"x", os.XATTR_REPLACE)
        p.see(os.setxattr, path, "user.empty", b"")
        p.see(os.setxattr, path, "user." + "n" * 250, b"long name")
        p.see(os.setxattr, path, "user." + "n" * 251, b"longer")
        p.see(os.setxattr, path, "user.", b"no name")
        p.see(os.setxattr, path, "user.bytes", bytes(range(256)))
        p.see(os.setxattr, path, "user.large", b"x" * 3000)
        p.see(os.setxattr, path, "user.larger", b"x" * 65537)
        p.see(lambda q=path: sorted(key for key in os.listxattr(q) if key.startswith("user.")))
        p.see(os.getxattr, path, "user.one")
        p.see(os.getxattr, path, "user.empty")
        p.see(os.removexattr, path, "user.one")
        p.see(os.removexattr, path, "user.one")
        p.see(os.setxattr, path, "nonsense", b"x")
        p.see(os.setxattr, path, "nonsense.x", b"x")
        p.moved(os.setxattr, path, "user.three", b"3", of=(name, ""))
        p.moved(os.removexattr, path, "user.three", of=(name, ""))
    p.see(os.setxattr, p("link"), "user.x", b"1", follow_symlinks=False)
    p.see(os.setxattr, p("fifo"), "user.x", b"1")
    os.rename(p("f"), p("g"))
    p.see(os.getxattr, p("g"), "user.bytes")
    os.link(p("g"), p("h"))
    p.see(os.setxattr, p("h"), "user.linked", b"yes")
    p.see(os.getxattr, p("g"), "user.linked")


@case
def who_may_use_extended_attributes(p: Place) -> Steps:
    p.file("f", b"x", 0o644)
    give(p, "f", ONE)
    p.folder("sticky", 0o1777)
    yield

    def act(q: Place) -> None:
        q.see(os.setxattr, q("f"), f"user.by{os.getuid()}", b"1")
        q.see(os.getxattr, q("f"), f"user.by{os.getuid()}")
        q.see(os.setxattr, q("sticky"), f"user.by{os.getuid()}", b"1")

    for who in (TWO, ONE, ROOT):
        p.as_user(who, act)


@case
def privileged_attributes(p: Place) -> Steps:
    p.file("f")
    yield
    for name in ("trusted.x", "security.x", "security.capability", "system.posix_acl_access"):
        p.see(os.getxattr, p("f"), name)
        p.see(os.setxattr, p("f"), name, b"x")
        p.see(os.removexattr, p("f"), name)
