"""Cases about the content of files: reading, writing, sizes, holes, maps, locks, syncs."""

import contextlib
import fcntl
import mmap
import os
import socket
import struct
import threading
from collections.abc import Iterator

from places import LIBC, Place, case, checked, fallocate, linkat_fd

Steps = Iterator[None]

BIG = bytes(range(256)) * 1200  # 300 KiB: more than is scanned at once


@case
def reading_and_writing_at_places(p: Place) -> Steps:
    p.file("small", b"0123456789")
    p.file("big", BIG)
    p.file("empty", b"")
    yield
    for name, size in (("small", 10), ("big", len(BIG)), ("empty", 0)):
        fd = p.open(name)
        for at in (0, 1, size - 1, size, size + 1, size + 10_000):
            p.see(os.pread, fd, 7, max(at, 0))
        p.see(os.pwrite, fd, b"first", 0)
        p.see(os.pwrite, fd, b"last", size)
        p.see(os.pwrite, fd, b"far", size + 9000)
        p.see(os.pread, fd, 9999, size)
        p.see(os.lseek, fd, 0, os.SEEK_END)
        p.see(os.lseek, fd, -1, os.SEEK_SET)
        p.see(os.lseek, fd, -3, os.SEEK_END)
        p.see(os.read, fd, 9)
        p.see(os.preadv, fd, [bytearray(3), bytearray(4)], 2)
        p.see(os.pwritev, fd, [b"ab", b"cd"], 4)
        p.see(os.fstat, fd)
        p.look(name)
        p.read(name)


@case
def access_modes_of_descriptors(p: Place) -> Steps:
    p.file("f")
    p.folder("d")
    yield
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_PATH):
        fd = p.open("f", flags)
        p.see(os.read, fd, 3)
        p.see(os.write, fd, b"w")
        p.see(os.ftruncate, fd, 3)
        p.see(os.fsync, fd)
        p.see(os.fchmod, fd, 0o640)
    fd = p.open("d", os.O_RDONLY)
    p.see(os.read, fd, 3)
    p.see(os.write, fd, b"w")
    p.see(os.ftruncate, fd, 3)
    p.see(os.fsync, fd)
    p.see(os.fdatasync, fd)


@case
def truncating(p: Place) -> Steps:
    for name in ("small", "path", "open"):
        p.file(name, b"0123456789")
    p.file("big", BIG)
    p.folder("d")
    os.mkfifo(p("fifo"))
    os.symlink("small", p("link"))
    yield
    for size in (5, 0, 5, 70_000, 3):
        p.see(os.truncate, p("path"), size)
        p.look("path")
        p.read("path")
    for size in (len(BIG) - 1, len(BIG) + 5000, 131_072, 1):
        p.see(os.truncate, p("big"), size)
        p.read("big")
    fd = p.open("small")
    p.see(os.ftruncate, fd, 4)
    p.see(os.pread, fd, 99, 0)
    p.see(os.ftruncate, fd, -1)
    p.see(os.truncate, p("small"), -1)
    p.see(os.truncate, p("small"), 1 << 62)
    p.see(os.truncate, p("link"), 2)
    p.read("small")
    p.see(os.truncate, p("d"), 0)
    p.see(os.truncate, p("missing"), 0)
    p.see(os.truncate, p("small/x"), 0)
    p.opens("open", os.O_WRONLY | os.O_TRUNC)
    p.look("open")
    p.opens("open", os.O_RDONLY | os.O_TRUNC)
    p.opens("big", os.O_RDWR | os.O_TRUNC)
    p.look("big")


@case
def times_of_content(p: Place) -> Steps:
    p.file("f", b"0123456789")
    yield
    fd = p.open("f")
    of = ("f",)
    p.moved(os.pwrite, fd, b"x", 0, of=of)
    p.moved(os.ftruncate, fd, 10, of=of)
    p.moved(os.ftruncate, fd, 5, of=of)
    p.moved(os.truncate, p("f"), 5, of=of)
    p.moved(os.truncate, p("f"), 6, of=of)
    p.moved(os.pwrite, fd, b"", 0, of=of)
    p.moved(lambda: os.close(p.open("f", os.O_WRONLY | os.O_TRUNC)), of=of)
    p.moved(lambda: os.close(p.open("f", os.O_WRONLY | os.O_TRUNC)), of=of)
    p.moved(lambda: os.close(p.open("f", os.O_WRONLY)), of=of)


@case
def appending_through_several_descriptors(p: Place) -> Steps:
    p.file("log", b"start\n")
    yield
    ones = [p.open("log", os.O_WRONLY | os.O_APPEND) for _ in range(3)]
    plain = p.open("log", os.O_RDWR)
    for number in range(9):
        p.see(os.write, ones[number % 3], b"line %d\n" % number)
    p.see(os.lseek, ones[0], 0, os.SEEK_SET)
    p.see(os.write, ones[0], b"at the end\n")
    p.see(os.lseek, ones[0], 0, os.SEEK_CUR)
    p.see(os.pwrite, plain, b"START", 0)
    p.see(os.ftruncate, plain, 6)
    p.see(os.write, ones[1], b"after\n")
    p.read("log")

    def append(name: bytes) -> None:
        fd = p.open("log", os.O_WRONLY | os.O_APPEND)
        for number in range(200):
            os.write(fd, b"%s %03d\n" % (name, number))
        os.close(fd)

    threads = [threading.Thread(target=append, args=(name,)) for name in (b"one", b"two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with open(p("log"), "rb") as file:
        lines = file.read().splitlines()
    p.note("nothing lost", sorted(lines[2:]))
    os.truncate(p("log"), 0)
    fcntl.fcntl(plain, fcntl.F_SETFL, os.O_APPEND)
    p.see(os.pwrite, plain, b"end", 0)
    p.see(os.pwrite, plain, b"end", 0)
    p.read("log")


@case
def what_one_descriptor_writes_another_reads(p: Place) -> Steps:
    p.file("f", b"old content\n")
    yield
    before = p.open("f", os.O_RDONLY)
    p.see(os.pread, before, 99, 0)
    writer = p.open("f", os.O_WRONLY)
    p.see(os.pwrite, writer, b"NEW", 0)
    p.see(os.pread, before, 99, 0)
    os.close(writer)
    p.see(os.pread, before, 99, 0)
    with mmap.mmap(before, 0, prot=mmap.PROT_READ) as mapped:
        p.note("mapped", bytes(mapped))
        writer = p.open("f", os.O_WRONLY)
        os.pwrite(writer, b"AND", 4)
        p.note("mapped", bytes(mapped))


@case
def maps(p: Place) -> Steps:
    p.file("shared", b"0123456789" * 1000)
    p.file("private", b"0123456789")
    yield
    fd = p.open("shared")
    with mmap.mmap(fd, 0) as mapped:
        mapped[0:5] = b"FIRST"
        mapped[9990:10000] = b"LAST......"
        p.see(os.pread, fd, 8, 0)
        p.see(mapped.flush)
        p.read("shared")
        mapped[4096:4100] = b"page"
        p.see(os.pwrite, fd, b"by write", 4200)
        p.note("seen in the map", mapped[4190:4220])
    p.read("shared")
    os.close(fd)
    fd = p.open("private")
    with mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE) as mapped:
        mapped[0:5] = b"MINE."
        p.note("private", bytes(mapped))
    p.read("private")
    os.close(fd)
    with contextlib.suppress(ValueError):
        p.see(mmap.mmap, p.open("private", os.O_RDONLY), 10, prot=mmap.PROT_WRITE)
    fd = p.open("new", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 8192)
    with mmap.mmap(fd, 8192) as mapped:
        mapped[8000:8003] = b"end"
        os.ftruncate(fd, 4096)
        os.ftruncate(fd, 8192)
        p.note("cut off and zero", mapped[8000:8003])
        mapped[1:3] = b"ok"
    os.unlink(p("new"))
    p.see(os.pread, fd, 4, 0)


@case
def holes(p: Place) -> Steps:
    fd = os.open(p("sparse"), os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"end", 4 << 20)
    os.close(fd)
    yield
    fd = p.open("sparse")
    p.see(os.fstat, fd)
    p.note("few blocks", os.fstat(fd).st_blocks < 100)
    p.see(os.pread, fd, 10, 1 << 20)
    p.see(os.pwrite, fd, b"middle", 1 << 20)
    p.note("few blocks", os.fstat(fd).st_blocks < 100)
    p.see(os.pread, fd, 10, (4 << 20) - 5)
    p.see(os.ftruncate, fd, 9 << 20)
    p.note("few blocks", os.fstat(fd).st_blocks < 100)
    new = p.open("new", os.O_RDWR | os.O_CREAT)
    p.see(os.pwrite, new, b"x", 1 << 30)
    p.look("new")
    p.note("few blocks", os.fstat(new).st_blocks < 100)
    os.ftruncate(new, 100)
    os.ftruncate(fd, 100)


@case
def finding_holes(p: Place) -> Steps:
    fd = os.open(p("sparse"), os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"x" * 4096, 1 << 20)
    os.ftruncate(fd, 2 << 20)
    os.close(fd)
    yield
    fd = p.open("sparse")
    os.pwrite(fd, b"y" * 4096, 0)
    for at in (0, 4096, 1 << 20, (1 << 20) + 4096, 2 << 20):
        p.see(os.lseek, fd, at, os.SEEK_DATA)
        p.see(os.lseek, fd, at, os.SEEK_HOLE)


@case
def allocating(p: Place) -> Steps:
    p.file("f", b"0123456789")
    yield
    fd = p.open("f")
    p.see(fallocate, fd, 0, 0, 8192)
    p.see(os.fstat, fd)
    p.see(fallocate, fd, 1, 0, 65536)  # keep the size
    p.see(os.fstat, fd)
    p.see(fallocate, fd, 3, 2, 4)  # punch a hole
    p.see(os.pread, fd, 10, 0)
    p.see(os.ftruncate, fd, 10)


@case
def posix_fallocate_works_everywhere(p: Place) -> Steps:
    p.file("f", b"0123456789")
    yield
    fd = p.open("f")
    p.see(os.posix_fallocate, fd, 5, 10_000)
    p.see(os.fstat, fd)
    p.see(os.pread, fd, 20, 0)


@case
def copying_within(p: Place) -> Steps:
    p.file("from", BIG)
    p.file("to", b"")
    yield
    source, target = p.open("from", os.O_RDONLY), p.open("to")
    p.see(os.copy_file_range, source, target, 100_000, 5, 0)
    p.see(os.sendfile, target, source, 0, 1000)
    p.read("to")
    p.see(os.splice, source, target, 10)


@case
def nameless_files(p: Place) -> Steps:
    p.folder("d")
    yield
    fd = p.opens("d", os.O_TMPFILE | os.O_RDWR, 0o600)
    if fd >= 0:
        p.see(os.write, fd, b"data")
        p.see(linkat_fd, fd, p("named"))


@case
def locks(p: Place) -> Steps:
    p.file("f")
    yield
    one, other = p.open("f"), p.open("f")
    p.see(fcntl.flock, one, fcntl.LOCK_EX | fcntl.LOCK_NB)
    p.see(fcntl.flock, other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    p.see(fcntl.flock, one, fcntl.LOCK_SH)
    p.see(fcntl.flock, other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    p.see(fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    p.see(fcntl.flock, other, fcntl.LOCK_UN)
    p.see(fcntl.flock, one, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(one)
    p.see(fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB)

    p.see(fcntl.lockf, other, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)

    def second(q: Place) -> None:
        mine = q.open("f")
        q.see(fcntl.lockf, mine, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)
        q.see(fcntl.lockf, mine, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 10)
        q.see(fcntl.lockf, mine, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 0)
        request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 10, 0)
        found = struct.unpack("hhqqi4x", fcntl.fcntl(mine, fcntl.F_GETLK, request))
        q.note("held", (found[:4], found[4] > 0))

    from places import in_child

    inner = Place(p.root)
    p.seen.extend(in_child(lambda: second(inner), inner))
    open_file = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 100, 10, 0)
    again = p.open("f")
    p.see(lambda: len(fcntl.fcntl(other, fcntl.F_OFD_SETLK, open_file)))
    p.see(lambda: len(fcntl.fcntl(again, fcntl.F_OFD_SETLK, open_file)))


@case
def pipes_and_sockets_work(p: Place) -> Steps:
    os.mkfifo(p("pipe"))
    yield
    os.mkfifo(p("own"))
    for name in ("pipe", "own"):
        reader = p.opens(name, os.O_RDONLY | os.O_NONBLOCK)
        if reader < 0:
            continue
        writer = p.opens(name, os.O_WRONLY)
        p.see(os.write, writer, b"through")
        p.see(os.read, reader, 99)
        os.close(reader)
        os.close(writer)
    p.opens("own", os.O_WRONLY | os.O_NONBLOCK)
    os.chdir(p.root)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        p.see(server.bind, "sock")
        p.see(client.connect, "sock")
        server.listen()
        p.see(client.connect, "sock")
        accepted, _ = server.accept()
        client.send(b"hello")
        p.note("received", accepted.recv(9))
        accepted.close()
    p.opens("sock", os.O_RDWR)
    p.look("sock", "own")


@case
def syncing(p: Place) -> Steps:
    p.file("f")
    p.folder("d")
    yield
    fd = p.open("f")
    os.write(fd, b"more")
    for call in (os.fsync, os.fdatasync):
        p.see(call, fd)
        p.see(call, p.open("d", os.O_RDONLY))
        p.see(call, p.open("", os.O_RDONLY))
    p.see(lambda: checked(LIBC.syncfs(fd)))
    p.see(lambda: checked(LIBC.sync_file_range(fd, 0, 0, 7)))
    fd = p.open("f", os.O_WRONLY | os.O_SYNC)
    p.see(os.write, fd, b"sync")
    fd = p.open("f", os.O_WRONLY | os.O_DSYNC | os.O_APPEND)
    p.see(os.write, fd, b"sync")
    p.read("f")


@case
def direct_io(p: Place) -> Steps:
    p.file("f", b"x" * 8192)
    yield
    fd = p.opens("f", os.O_RDWR | os.O_DIRECT)
    if fd >= 0:
        with mmap.mmap(-1, 4096) as page:
            page[:] = b"y" * 4096
            p.see(os.pwritev, fd, [page], 4096)
            page[:] = b"z" * 4096
            p.see(os.preadv, fd, [page], 4096)
            p.note("read", page[:10])
    p.read("f")


@case
def running_programs(p: Place) -> Steps:
    p.file("script", b"#!/bin/sh\necho from $0\n", 0o755)
    p.file("plain", b"#!/bin/sh\n", 0o644)
    with open("/bin/true", "rb") as file:
        p.file("true", file.read(), 0o755)
    yield
    for name in ("script", "plain", "true"):
        p.see(os.spawnv, os.P_WAIT, p(name), [name])
        p.see(os.access, p(name), os.X_OK)

    def run(name: str) -> None:
        child = os.fork()
        if child == 0:
            try:
                os.execv(p(name), [name])
            except OSError as error:
                os._exit(error.errno or 0)
        p.note(f"run {name}", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    run("true")
    run("plain")
    writer = p.open("true", os.O_WRONLY)
    run("true")  # ETXTBSY
    os.close(writer)
    run("true")


@case
def statfs(p: Place) -> Steps:
    yield
    space = os.statvfs(p(""))
    p.note("names", space.f_namemax)
    p.note("units", (space.f_frsize > 0, space.f_bsize > 0))
    p.note("space", 0 < space.f_bavail <= space.f_blocks)
    p.note("files", 0 < space.f_favail <= space.f_files)


@case
def ioctls(p: Place) -> Steps:
    p.file("f")
    yield
    fd = p.open("f")
    p.see(fcntl.ioctl, fd, 0x5413, b"\0" * 8)  # TIOCGWINSZ: no terminal
    p.see(fcntl.ioctl, fd, 0x1234, 0)
