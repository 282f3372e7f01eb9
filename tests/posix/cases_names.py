"""Cases about names: making, linking, renaming, removing, listing."""

import errno
import itertools
import os
import socket
import stat
from collections.abc import Iterator

from places import EXCHANGE, NOREPLACE, WHITEOUT, Place, case, linkat_fd, renameat2, tick

Steps = Iterator[None]

KINDS = ("file", "empty", "full", "link", "dangling", "fifo", "socket", "nothing")


def make(p: Place, name: str, kind: str) -> None:
    """Make something of a kind at a name."""
    if kind == "file":
        p.file(name, f"file {name}\n".encode())
    elif kind in ("empty", "full"):
        p.folder(name)
        if kind == "full":
            p.file(f"{name}/inner", b"inner\n")
            p.folder(f"{name}/sub")
    elif kind == "link":
        p.file(f"{name}.target")
        os.symlink(os.path.basename(name) + ".target", p(name))
    elif kind == "dangling":
        os.symlink("nowhere", p(name))
    elif kind == "fifo":
        os.mkfifo(p(name))
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            here = os.open(os.path.dirname(p(name)), os.O_PATH)
            one.bind(f"/proc/self/fd/{here}/{os.path.basename(name)}")
            os.close(here)


@case
def create_and_exclusive_create(p: Place) -> Steps:
    for kind in KINDS:
        make(p, kind, kind)
    yield
    for kind in KINDS:
        p.opens(kind, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640)
    for kind in ("file", "empty", "link", "dangling"):
        p.opens(kind, os.O_CREAT | os.O_WRONLY, 0o640)
    for kind in KINDS[:5]:
        p.opens(kind, os.O_WRONLY | os.O_NOFOLLOW)
        p.opens(kind, os.O_RDONLY | os.O_DIRECTORY)
    p.opens("file/below", os.O_CREAT | os.O_WRONLY)
    p.opens("missing/below", os.O_CREAT | os.O_WRONLY)
    p.opens("", os.O_RDWR)
    p.opens("new/", os.O_CREAT | os.O_WRONLY)
    p.opens("file/", os.O_RDONLY)


@case
def create_with_every_umask_and_mode(p: Place) -> Steps:
    yield
    for number, (mask, mode) in enumerate(
        itertools.product((0, 0o022, 0o077, 0o777), (0o666, 0o777, 0o600, 0o000, 0o4755, 0o2711))
    ):
        os.umask(mask)
        p.see(lambda n=number, m=mode: os.close(os.open(p(f"f{n}"), os.O_CREAT | os.O_RDWR, m)))
        p.see(os.mkdir, p(f"d{number}"), mode | 0o1000)
        p.see(os.mkfifo, p(f"p{number}"), mode)
    os.umask(0o022)


@case
def kinds_by_mknod(p: Place) -> Steps:
    yield
    for number, (kind, device) in enumerate(
        (
            (stat.S_IFREG, 0), (stat.S_IFIFO, 0), (stat.S_IFSOCK, 0), (0, 0),
            (stat.S_IFCHR, os.makedev(1, 3)), (stat.S_IFBLK, os.makedev(7, 99)),
            (stat.S_IFCHR, 0), (stat.S_IFDIR, 0), (stat.S_IFLNK, 0),
        )
    ):  # fmt: skip
        p.see(os.mknod, p(f"n{number}"), kind | 0o644, device)
        p.see(os.mknod, p(f"n{number}"), kind | 0o644, device)
        p.look(f"n{number}")


@case
def folders(p: Place) -> Steps:
    for kind in KINDS:
        make(p, kind, kind)
    yield
    for kind in KINDS:
        p.see(os.mkdir, p(kind))
    p.see(os.mkdir, p("a/b"))
    p.see(os.mkdir, p("file/b"))
    p.see(os.mkdir, p("with-slash/"))
    p.see(os.mkdir, p("."))
    p.see(os.mkdir, p("with-slash/."))
    p.see(os.mkdir, p("with-slash/.."))
    for kind in KINDS:
        p.see(os.rmdir, p(kind))
    p.see(os.rmdir, p("with-slash/."))
    p.see(os.rmdir, p("full/.."))
    p.see(os.rmdir, p("full/sub/"))
    p.look("", "full", "with-slash")


@case
def folders_made_anew_show_nothing_old(p: Place) -> Steps:
    make(p, "d", "full")
    make(p, "e", "full")
    yield
    os.unlink(p("d/inner"))
    os.rmdir(p("d/sub"))
    os.rmdir(p("d"))
    p.see(os.mkdir, p("d"))
    p.see(os.listdir, p("d"))
    p.look("d", "")
    p.see(os.rename, p("e"), p("gone"))
    p.see(os.mkdir, p("e"))
    p.see(os.listdir, p("e"))
    p.file("e/new")
    p.look("e", "gone", "")


@case
def removing(p: Place) -> Steps:
    for kind in KINDS:
        make(p, kind, kind)
    yield
    p.see(os.unlink, p("file/"))
    p.see(os.unlink, p("link/"))
    for kind in KINDS:
        p.see(os.unlink, p(kind))
        p.see(os.unlink, p(kind))
        p.see(os.lstat, p(kind))
    p.look("link.target")
    p.see(os.unlink, p("."))
    p.see(os.unlink, p("full/inner/x"))


@case
def links(p: Place) -> Steps:
    for kind in KINDS:
        make(p, kind, kind)
    p.folder("d")
    yield
    for kind in KINDS:
        p.see(os.link, p(kind), p(f"d/{kind}"), follow_symlinks=False)
        p.see(os.link, p(kind), p("file"), follow_symlinks=False)
        p.look(kind, f"d/{kind}")
    p.see(os.link, p("link"), p("d/followed"), follow_symlinks=True)
    p.look("link.target", "d")
    p.see(os.link, p("file"), p("missing/x"))
    p.see(os.link, p("file"), p("d"))
    p.see(os.link, p("file/"), p("d/slash"))
    with open(p("d/file"), "ab") as file:
        file.write(b"more\n")
    p.read("file")
    p.look("file", "d/file")
    p.note("one inode", os.stat(p("file")).st_ino == os.stat(p("d/file")).st_ino)
    p.see(os.unlink, p("file"))
    p.look("d/file")
    p.read("d/file")
    p.see(os.rename, p("d/file"), p("d/renamed"))
    p.look("d/renamed")


@case
def renaming_one_name_of_a_file_to_another_does_nothing(p: Place) -> Steps:
    p.file("a")
    os.link(p("a"), p("b"))
    yield
    p.see(os.rename, p("a"), p("b"))
    p.look("a", "b")
    p.see(renameat2, p("a"), p("b"), NOREPLACE)
    p.see(renameat2, p("a"), p("b"), EXCHANGE)
    p.look("a", "b")


@case
def symlinks(p: Place) -> Steps:
    make(p, "d", "full")
    os.symlink("d", p("to-d"))
    os.symlink("to-d", p("to-link"))
    yield
    for number, target in enumerate(
        ("a", "", ".", "..", "d/inner", "x" * 255, "x" * 256, "y/" * 2047 + "y", "y/" * 2048)
    ):
        p.see(os.symlink, target, p(f"l{number}"))
        p.see(os.readlink, p(f"l{number}"))
        p.look(f"l{number}")
    os.symlink("loop", p("loop"))
    p.opens("loop", os.O_RDONLY)
    p.see(os.stat, p("loop"))
    p.see(os.listdir, p("to-link"))
    p.see(os.stat, p("to-link/inner"))
    p.see(os.rmdir, p("to-d"))
    p.see(os.rename, p("to-d"), p("renamed"))
    p.see(os.readlink, p("renamed"))
    p.see(os.stat, p("to-link"))
    p.see(os.readlink, p("d"))
    p.see(os.readlink, p("d/inner"))
    p.see(os.chmod, p("renamed"), 0o700)
    p.look("d", "renamed")
    p.see(os.lchown, p("renamed"), os.getuid(), os.getgid())
    p.see(os.utime, p("renamed"), ns=(5, 7), follow_symlinks=False)
    p.note("times of a link", os.lstat(p("renamed")).st_mtime_ns)


def _renames(flags: int) -> None:
    def one(p: Place) -> Steps:
        for old, new in itertools.product(KINDS, KINDS):
            p.folder(f"{old}-{new}")
            make(p, f"{old}-{new}/a", old)
            make(p, f"{old}-{new}/b", new)
        yield
        for old, new in itertools.product(KINDS, KINDS):
            p.see(renameat2, p(f"{old}-{new}/a"), p(f"{old}-{new}/b"), flags)
            p.look(f"{old}-{new}", f"{old}-{new}/a", f"{old}-{new}/b")
            p.see(lambda o=old, n=new: sorted(os.listdir(p(f"{o}-{n}"))))

    one.__name__ = {0: "rename", NOREPLACE: "rename_noreplace", EXCHANGE: "rename_exchange"}[flags]
    case(one)


for _flags in (0, NOREPLACE, EXCHANGE):
    _renames(_flags)


@case
def renames_between_folders(p: Place) -> Steps:
    for name in ("one", "two"):
        make(p, name, "full")
    p.file("one/f")
    p.folder("one/deep")
    p.folder("one/deep/er")
    p.file("one/deep/er/leaf")
    yield
    p.see(os.rename, p("one/f"), p("two/f"))
    p.see(os.rename, p("one/deep"), p("two/deep"))
    p.look("one", "two", "two/deep", "two/deep/er")
    p.see(os.rename, p("two"), p("two/deep/er/two"))
    p.see(os.rename, p("two"), p("two/x"))
    p.see(os.rename, p("two/deep/er"), p("two"))
    p.see(os.rename, p("two/deep"), p("two"))
    p.see(renameat2, p("two"), p("two/deep/er"), EXCHANGE)
    p.see(renameat2, p("one"), p("two/deep/er"), EXCHANGE)
    p.look("one", "two", "two/deep", "two/deep/er", "")
    p.see(lambda: sorted(os.listdir(p("two/deep/er"))))
    p.note("parent", os.stat(p("two/deep/er/..")).st_ino == os.stat(p("two/deep")).st_ino)
    p.see(os.rename, p("missing"), p("x"))
    p.see(os.rename, p("one/"), p("renamed/"))
    p.see(os.rename, p("two/f/"), p("x"))
    p.see(os.rename, p("two/f"), p("x/"))
    p.see(os.rename, p("two/."), p("x"))
    p.see(os.rename, p("two/f"), p("two/.."))
    p.see(os.rename, p("two/f"), p("two/f/x"))


@case
def cycles_and_swaps(p: Place) -> Steps:
    for name in "abc":
        make(p, name, "full")
        p.file(f"{name}/is-{name}")
    for name in "xyz":
        p.file(name, name.encode())
    yield
    for names in ("abc", "xyz"):
        os.rename(p(names[0]), p("t"))
        os.rename(p(names[1]), p(names[0]))
        os.rename(p(names[2]), p(names[1]))
        os.rename(p("t"), p(names[2]))
    for name in "abc":
        p.see(lambda n=name: sorted(os.listdir(p(n))))
    for name in "xyz":
        p.read(name)
    p.see(renameat2, p("a"), p("x"), EXCHANGE)
    p.see(renameat2, p("b"), p("c"), EXCHANGE)
    p.see(renameat2, p("a"), p("x"), EXCHANGE)
    p.look("a", "b", "c", "x", "y", "z", "")


@case
def rename_flags_that_are_refused(p: Place) -> Steps:
    p.file("a")
    p.file("b")
    yield
    p.see(renameat2, p("a"), p("b"), NOREPLACE | EXCHANGE)
    p.see(renameat2, p("a"), p("c"), 8)
    p.see(renameat2, p("a"), p("c"), EXCHANGE | WHITEOUT)
    p.see(renameat2, p("a"), p("missing"), EXCHANGE)
    p.look("a", "b")


@case
def rename_onto_open_files(p: Place) -> Steps:
    p.file("a", b"a\n")
    p.file("b", b"b\n")
    yield
    fd = p.open("b")
    p.see(os.rename, p("a"), p("b"))
    p.see(os.fstat, fd)
    p.see(os.pread, fd, 9, 0)
    p.see(os.pwrite, fd, b"more", 1)
    p.see(os.pread, fd, 9, 0)
    p.read("b")
    p.see(os.ftruncate, fd, 2)
    p.see(os.fchmod, fd, 0o600)
    p.see(os.fsync, fd)
    p.see(os.fstat, fd)
    p.look("b")


@case
def unlinked_but_open(p: Place) -> Steps:
    p.file("f", b"0123456789")
    p.file("g", b"0123456789")
    p.folder("d")
    yield
    fd = p.open("f")
    held = p.open("d", os.O_RDONLY)
    again = p.open("f", os.O_RDONLY)
    p.see(os.unlink, p("f"))
    p.see(os.fstat, fd)
    p.see(os.pread, fd, 99, 0)
    p.see(os.pwrite, fd, b"abc", 5)
    p.see(os.ftruncate, fd, 7)
    p.see(os.fchmod, fd, 0o640)
    p.see(os.utime, fd, ns=(1, 2))
    p.see(os.pread, again, 99, 0)
    p.see(os.setxattr, fd, "user.k", b"v")
    p.see(os.getxattr, fd, "user.k")
    p.see(linkat_fd, fd, p("back"))
    p.see(os.fstat, again)
    p.file("f", b"another\n")
    p.see(os.pread, fd, 99, 0)
    p.note("time", os.fstat(fd).st_mtime_ns)
    p.see(os.rmdir, p("d"))
    p.see(os.fstat, held)
    p.see(os.listdir, held)
    p.see(lambda: os.close(os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=held)))
    p.see(lambda: os.mkdir("x", dir_fd=held))
    p.see(os.chdir, held)
    p.see(os.listdir, ".")
    p.see(os.stat, "..")


@case
def names_that_are_too_long(p: Place) -> Steps:
    p.file("f")
    p.folder("d")
    yield
    for length in (254, 255, 256):
        name = "n" * length
        for call in (os.mkdir, os.mkfifo, os.lstat, os.unlink, os.rmdir, os.readlink):
            p.see(call, p(name))
        p.see(os.symlink, "x", p(name))
        p.see(os.rename, p("f"), p(name))
        p.see(os.rename, p(name), p("f"))
        p.see(os.link, p("f"), p("l" * length))
        p.opens("o" * length, os.O_CREAT | os.O_WRONLY)
        p.see(os.rename, p("d"), p("D" * length))
    os.chdir(p(""))
    for length in (4095, 4096, 4097):
        path = ("./" * 2100 + "new")[-length:].lstrip("/")
        p.see(os.lstat, path)
        p.see(os.mkdir, path)
    p.see(os.lstat, "")
    p.see(os.mkdir, "")


@case
def names_are_bytes(p: Place) -> Steps:
    yield
    root = os.fsencode(p(""))
    for name in (b"\xff\xfe", b" ", b"\n", b"-rf", b"\\", b"a\tb", "\u00e9".encode(),
                 "e\u0301".encode(), b"...", b".hidden", b"a:b", b"\x01"):  # fmt: skip
        p.see(lambda n=name: os.mkdir(root + b"/" + n))
    p.see(lambda: sorted(os.listdir(root)))


@case
def listing_under_change(p: Place) -> Steps:
    p.folder("d")
    for number in range(300):
        p.file(f"d/f{number:03}", b"")
    yield
    found: list[str] = []
    with os.scandir(p("d")) as entries:
        for entry in entries:
            found.append(entry.name)
            if len(found) == 20:
                for number in range(0, 300, 2):
                    os.unlink(p(f"d/f{number:03}"))
                for number in range(300, 320):
                    p.file(f"d/f{number:03}", b"")
    kept = {f"f{number:03}" for number in range(1, 300, 2)}
    p.note("every entry that stayed, once", kept <= set(found) and len(found) == len(set(found)))
    p.see(lambda: sorted(os.listdir(p("d"))))
    with os.scandir(p("d")) as entries:
        for entry in entries:
            os.unlink(entry.path)
    p.see(os.listdir, p("d"))
    p.see(os.rmdir, p("d"))


@case
def listing_from_a_remembered_place(p: Place) -> Steps:
    import ctypes

    from places import LIBC

    p.folder("d")
    for number in range(200):
        p.file(f"d/f{number:03}", b"")
    yield
    LIBC.opendir.restype = LIBC.readdir.restype = ctypes.c_void_p
    LIBC.readdir.argtypes = LIBC.telldir.argtypes = LIBC.rewinddir.argtypes = (ctypes.c_void_p,)
    LIBC.telldir.restype = ctypes.c_long
    LIBC.seekdir.argtypes = (ctypes.c_void_p, ctypes.c_long)
    stream = LIBC.opendir(os.fsencode(p("d")))

    def rest() -> list[bytes]:
        names = []
        while entry := LIBC.readdir(stream):
            names.append(ctypes.string_at(entry + 19))
        return names

    for _ in range(50):
        LIBC.readdir(stream)
    place = LIBC.telldir(stream)
    first = rest()
    for number in range(0, 200, 5):
        os.unlink(p(f"d/f{number:03}"))
    p.file("d/late")
    LIBC.seekdir(stream, place)
    gone = {b"f%03d" % number for number in range(0, 200, 5)}
    second = [name for name in rest() if name not in (*gone, b"late")]
    p.note("the same from there", second == [name for name in first if name not in gone])
    LIBC.rewinddir(stream)
    p.note(
        "all again", sorted(rest()) == sorted([b".", b"..", *map(os.fsencode, os.listdir(p("d")))])
    )


@case
def entries_have_kinds_and_numbers(p: Place) -> Steps:
    for kind in KINDS:
        make(p, kind, kind)
    yield
    make(p, "agent", "file")
    with os.scandir(p("")) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            status = os.lstat(entry.path)
            p.note(entry.name, (entry.is_dir(follow_symlinks=False), entry.is_symlink(),
                                entry.is_file(follow_symlinks=False)))  # fmt: skip
            p.note(f"number of {entry.name}", entry.inode() == status.st_ino)


@case
def times_of_folders(p: Place) -> Steps:
    for name in ("d", "e"):
        p.folder(name)
    p.file("d/f")
    p.file("d/old")
    make(p, "d/sub", "full")
    yield
    of = ("d", "e")
    p.moved(lambda: os.close(p.open("d/new", os.O_CREAT | os.O_WRONLY)), of=of)
    p.moved(lambda: os.close(p.open("d/new", os.O_CREAT | os.O_WRONLY)), of=of)
    p.moved(os.mkdir, p("d/made"), of=of)
    p.moved(os.mkdir, p("d/made"), of=of)
    p.moved(os.symlink, "x", p("d/sym"), of=of)
    p.moved(os.mkfifo, p("d/fifo"), of=of)
    p.moved(os.link, p("d/f"), p("d/hard"), of=(*of, "d/f"))
    p.moved(os.unlink, p("d/hard"), of=(*of, "d/f"))
    p.moved(os.rmdir, p("d/made"), of=of)
    p.moved(os.rmdir, p("d/sub"), of=(*of, "d/sub"))
    p.moved(os.rename, p("d/f"), p("e/f"), of=of)
    p.moved(os.rename, p("e/f"), p("e/g"), of=(*of,))
    p.moved(os.rename, p("e/g"), p("d/old"), of=of)
    p.moved(os.rename, p("d/sub"), p("e/sub"), of=of)
    p.moved(renameat2, p("e/sub"), p("d/old"), EXCHANGE, of=of)
    p.moved(os.unlink, p("d/missing"), of=of)
    p.moved(os.chmod, p("d"), 0o700, of=of)
    p.moved(os.setxattr, p("d"), "user.x", b"1", of=of)


@case
def times_of_a_renamed_object(p: Place) -> Steps:
    p.file("f")
    make(p, "d", "full")
    yield
    for name in ("f", "d"):
        before = os.lstat(p(name))
        tick()
        os.rename(p(name), p("new"))
        after = os.lstat(p("new"))
        p.note("modification stays", before.st_mtime_ns == after.st_mtime_ns)
        p.note("number stays", before.st_ino == after.st_ino)
        p.note("change moves", before.st_ctime_ns < after.st_ctime_ns)
        os.rename(p("new"), p(name))


@case
def working_folders_follow_renames(p: Place) -> Steps:
    p.folder("a")
    p.folder("a/b")
    p.file("a/b/f")
    yield
    os.chdir(p("a/b"))
    os.rename(p("a"), p("c"))
    p.see(os.listdir, ".")
    p.see(os.getcwd)
    p.see(os.listdir, "..")
    with open("f", "ab") as file:
        file.write(b"more")
    p.read("c/b/f")
    os.rename(p("c/b"), p("b"))
    p.see(lambda: sorted(os.listdir("..")))
    p.note("errno", errno.ENOENT)
