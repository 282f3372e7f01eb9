"""Real programs in a mount do what they do in a plain folder, and the result can be committed."""

import os
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from both_places import Both, both, needs, sh
from driving import Grantfs, tree
from wheels import tiny_wheel


@pytest.fixture
def plain_source(source: Path) -> Path:
    """Without secrets: what a program makes of masked bytes is another test's business."""
    (source / ".env").unlink()
    return source


@pytest.fixture
def places(grantfs: Grantfs, plain_source: Path) -> Both:
    return both(grantfs, plain_source)


@pytest.mark.parametrize(
    "options",
    [
        "set nobackup nowritebackup noswapfile",
        "set backup backupcopy=no noswapfile",
        "set backup backupcopy=yes",
        "set writebackup backupcopy=auto swapfile",
        "set noundofile backupcopy=auto,breakhardlink",
    ],
)
def test_vim_saves(places: Both, options: str) -> None:
    needs("vim")
    script = (
        "vim -es -u NONE -i NONE -N -c '%s' -c '%%s/one/ONE/' -c 'normal Goend' -c 'wq' README.md;"
        " vim -es -u NONE -i NONE -N -c 'normal ix' -c 'w new.txt' -c 'q!'; ls -A"
    )
    places.run(script % options)
    assert "ONE" in (places.mounted / "README.md").read_text()
    assert places.grantfs.status()["proj/README.md"] == "modified"
    places.check()


def test_sed_patch_and_shell_tools(places: Both) -> None:
    places.run(
        """
        sed -i 's/two/TWO/' README.md; sed -i.bak 's/TWO/2/' README.md
        cp -a src copy; mv copy/main.py copy/other.py; ln copy/other.py hard; rm -r src
        mkdir -p a/b/c; echo 1 > a/b/c/f; mv a z; rmdir z/b/c 2>/dev/null || true
        printf 'x%.0s' $(seq 5000) > long; truncate -s 100 long; dd if=long of=out bs=7 status=none
        cat README.md long | tee all | wc -c; sort -u README.md -o README.md
        install -m 640 all installed; touch -d 2020-02-02 installed; stat -c '%a %Y %s' installed
        find . -type f | sort; grep -rn o . | sort; chmod -R go-w .; split -b 1000 all part.
        ln -sfn copy/other.py link; readlink link; cat link; cksum part.* ; diff -r copy copy
        """
    )
    places.check()


def test_grep_over_the_tree_gives_what_the_source_gives(places: Both) -> None:
    assert places.run("grep -rn . --include='*.py' . | sort")


def test_a_script_is_run_from_the_mount(places: Both) -> None:
    assert places.run("src/tool.sh; chmod -x src/tool.sh; test ! -x src/tool.sh; sh src/tool.sh")
    places.check()


def test_tar_and_zip_unpack(places: Both) -> None:
    archive = places.grantfs.home.parent / "a.tar.gz"
    tree_root = places.grantfs.home.parent / "packed"
    (tree_root / "d" / "e").mkdir(parents=True)
    for number in range(200):
        (tree_root / "d" / f"f{number}").write_text(f"{number}\n" * number)
    (tree_root / "d" / "e" / "run").write_text("#!/bin/sh\n")
    (tree_root / "d" / "e" / "run").chmod(0o755)
    os.link(tree_root / "d" / "f1", tree_root / "d" / "hard")
    (tree_root / "d" / "soft").symlink_to("e/run")
    (tree_root / "d" / "empty").mkdir(mode=0o700)
    with tarfile.open(archive, "w:gz") as packing:
        packing.add(tree_root, arcname="unpacked")
    places.run(
        f"tar xf {archive}; tar xf {archive} --overwrite; tar df {archive};"
        " tar cf again.tar --sort=name --mtime=@0 --owner=0 --group=0 unpacked;"
        " cksum again.tar; stat -c '%h %Y %a' unpacked/d/f1 unpacked/d/e/run"
    )
    places.check()


def test_cp_and_rsync_copy_in_out_and_within(places: Both) -> None:
    needs("rsync")
    outside = places.grantfs.home.parent / "out"
    outside.mkdir()
    for number in range(50):
        (outside / f"n{number}").write_text(f"{number}\n")
    os.link(outside / "n1", outside / "n1-too")
    (outside / "sparse").write_bytes(b"")
    os.truncate(outside / "sparse", 1 << 20)
    places.run(
        f"cp -a {outside} copied; rsync -aH {outside}/ synced/;"
        f" rsync -aH --delete {outside}/ synced/;"
        " rsync -a --inplace copied/ synced/; cp -a --reflink=auto copied within; rm -r copied;"
        " rsync -ani --delete synced/ within/; rsync -a --remove-source-files synced/ moved/;"
        " find . -type f -links +1 | sort"
    )
    back = places.grantfs.home.parent / "back"
    sh(f"rsync -aHX ./ {back}/ 2>/dev/null || rsync -aH ./ {back}/", places.mounted)
    assert tree(back) == tree(places.plain)
    places.check()


def test_tar_packs_and_unpacks_hard_links_and_sparse_files(places: Both) -> None:
    places.run(
        """
        mkdir t; echo data > t/a; ln t/a t/b; ln README.md t/readme; truncate -s 8M t/sparse
        printf x | dd of=t/sparse bs=1 seek=5000000 conv=notrunc status=none
        tar cSf t.tar --sort=name --mtime=@0 --owner=0 --group=0 t README.md; tar tvf t.tar
        mkdir u; tar xSf t.tar -C u; stat -c '%h %s' u/t/a u/t/sparse u/README.md
        test u/t/a -ef u/t/b; test u/README.md -ef u/t/readme; cmp t/sparse u/t/sparse
        tar df t.tar -C u; echo more >> u/t/b; cat u/t/a; cp --sparse=always t/sparse again
        test $(stat -c %b u/t/sparse) -lt 100; test $(stat -c %b again) -lt 100
        rm t.tar  # tar finds holes by SEEK_HOLE or by zeros, and makes other maps of them
        """
    )
    assert (places.mounted / "u/t/sparse").stat().st_blocks < 100
    places.check()
    assert (places.source / "u/t/sparse").stat().st_blocks < 100
    assert (places.source / "u/t/a").stat().st_nlink == 2


def test_ripgrep_finds_the_same(places: Both) -> None:
    needs("rg")
    assert places.run(
        "rg -n --hidden --sort path 'o' .; rg --mmap -c --sort path . .; rg --files | sort"
    )


def test_rsync_in_every_way_of_writing(places: Both) -> None:
    needs("rsync")
    outside = places.grantfs.home.parent / "out"
    (outside / "d").mkdir(parents=True)
    (outside / "big").write_bytes(os.urandom(1 << 20))
    for number in range(30):
        (outside / "d" / f"n{number}").write_text(f"{number}\n")
    places.run(f"rsync -a --delete {outside}/ src/")
    with (outside / "big").open("r+b") as file:
        file.seek(500_000)
        file.write(b"changed in the middle")
    (outside / "d" / "n3").unlink()
    for options in ("--inplace --no-whole-file", "--append-verify", "--delay-updates", "--sparse",
                    "--delete-after --backup --backup-dir=old", "--partial-dir=.part"):  # fmt: skip
        (outside / "d" / "n4").write_text(options)
        places.run(f"rsync -a --delete --no-whole-file {options} {outside}/ src/; find . | sort")
    places.check()


def test_python_compiles_and_runs(places: Both) -> None:
    places.run(
        f"{sys.executable} -m compileall -q --invalidation-mode checked-hash src;"
        f" cd src; {sys.executable} -B main.py a b; {sys.executable} -c 'import main';"
        " ls __pycache__"
    )
    places.check()


def test_pip_installs_a_package(places: Both) -> None:
    wheel = tiny_wheel(places.grantfs.home.parent)
    pip = (
        f"{sys.executable} -m pip install -q --no-index --no-deps --no-compile --no-cache-dir"
        " --disable-pip-version-check --root-user-action=ignore --target lib"
    )
    # The second time it replaces what is there.
    places.run(
        f"{pip} {wheel}; {pip} --upgrade {wheel}; ls lib lib/bin lib/tiny;"
        f" PYTHONPATH=lib {sys.executable} -B -c 'import tiny; tiny.main()'",
        PIP_CONFIG_FILE="/dev/null",
        TMPDIR=str(places.grantfs.home.parent),
    )
    places.check()


@pytest.mark.parametrize("journal", ["wal", "delete", "truncate", "persist"])
def test_sqlite(places: Both, journal: str) -> None:
    for folder in (places.plain, places.mounted):
        path = folder / "data.db"
        connection = sqlite3.connect(path, isolation_level=None)
        assert connection.execute(f"PRAGMA journal_mode={journal}").fetchone() == (journal,)
        connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, s TEXT)")
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO t VALUES (?, ?)", [(n, str(n) * 20) for n in range(2000)]
        )
        # Another process sees nothing before, everything after the commit, and locks hold.
        count = [sys.executable, "-c",
                 "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=0.1);"
                 "print(c.execute('SELECT count(*) FROM t').fetchone()[0]);"
                 "c.execute('INSERT INTO t VALUES (-1, 1)')", str(path)]  # fmt: skip
        during = subprocess.run(count, capture_output=True, text=True, check=False)
        assert "locked" in during.stderr
        assert during.stdout in ("0\n", "")
        connection.execute("COMMIT")
        after = subprocess.run(count, capture_output=True, text=True, check=False)
        assert after.stdout == "2000\n"
        connection.execute("DELETE FROM t WHERE n % 2 = 0")
        connection.execute("VACUUM")
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*), max(n) FROM t").fetchone() == (1000, 1999)
        connection.close()
    places.grantfs.ask("commit", "-y")
    landed = sqlite3.connect(places.source / "data.db")
    assert landed.execute("SELECT count(*) FROM t").fetchone() == (1000,)
    landed.close()


def test_gcc_and_make_build(places: Both) -> None:
    needs("gcc")
    places.run(
        r"""
        mkdir c; cd c
        printf 'int twice(int);\n' > twice.h
        printf '#include "twice.h"\nint twice(int n) { return 2 * n; }\n' > twice.c
        printf '#include <stdio.h>\n#include "twice.h"\n' > main.c
        printf 'int main(void) { printf("%%d\\n", twice(21)); }\n' >> main.c
        gcc -c twice.c; gcc -c main.c; ar rcsD libtwice.a twice.o
        gcc -o prog main.o -L. -ltwice; ./prog
        gcc -shared -fPIC -o libtwice.so twice.c; gcc -o dyn main.o ./libtwice.so; ./dyn
        """
    )
    assert sh("./c/prog", places.mounted) == "42\n"
    places.check()
    assert sh("./c/prog", places.source) == "42\n"


def test_make_rebuilds_what_has_changed_and_nothing_else(places: Both) -> None:
    needs("gcc", "make")
    for place in (places.plain, places.mounted):
        folder = place / "make"
        folder.mkdir()
        units = [f"u{number}" for number in range(12)]
        for unit in units:
            (folder / f"{unit}.c").write_text(f'#include "all.h"\nint {unit}(void) {{return N;}}\n')
        (folder / "all.h").write_text("#define N 1\n")
        calls = " + ".join(f"{unit}()" for unit in units)
        declared = " ".join(f"int {unit}(void);" for unit in units)
        (folder / "main.c").write_text(
            f'#include <stdio.h>\n{declared}\nint main(void) {{ printf("%d\\n", {calls}); }}\n'
        )
        objects = " ".join(f"{unit}.o" for unit in units)
        (folder / "Makefile").write_text(
            f"prog: main.o {objects}\n\t$(CC) -o $@ $^\n{objects}: all.h\n"
            "%.o: %.c\n\t$(CC) -O0 -c -o $@.tmp $<\n\tmv $@.tmp $@\n"
            "clean:\n\trm -f *.o prog\n"
        )
    make = "make -s -j4 --output-sync"
    places.run(
        f"""
        cd make; {make}; ./prog; make -q; make | grep -c 'up to date'
        sleep 0.02; echo '#define N 2' > all.h; ! make -q; {make}; ./prog
        touch u3.c; make -n | grep -c u3; {make}; ./prog; make -q; {make} clean; ls; {make}; ./prog
        """
    )
    places.check()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_many_files_in_deep_folders(grantfs: Grantfs, plain_source: Path) -> None:
    for number in range(3000):
        folder = plain_source / f"d{number % 30}" / f"e{number % 7}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}").write_text(f"{number}\n")
    places = both(grantfs, plain_source)
    places.run(
        "find . -type f | wc -l; mv d1 d2/moved; rm -r d3; cp -a d4 d5/copied;"
        " find d6 -name 'f*' -exec sed -i s/^/x/ {} +; grep -rh . d6 | sort | cksum"
    )
    places.check()
