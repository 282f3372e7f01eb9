"""SQLite in a mount: journals of every kind, several processes at a time, a crash of one."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from driving import Grantfs

WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
for number in range(150):
    connection.execute("BEGIN IMMEDIATE")
    (last,) = connection.execute("SELECT coalesce(max(n), 0) FROM t").fetchone()
    connection.execute("INSERT INTO t VALUES (?, ?, ?)", (last + 1, sys.argv[2], "x" * 500))
    connection.execute("COMMIT")
"""

UNFINISHED = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size=5")
connection.execute("BEGIN")
connection.execute("UPDATE t SET who = 'nobody'")
connection.execute("CREATE TABLE more AS SELECT * FROM t")
print("in the middle", flush=True)
sys.stdin.read()
"""


@pytest.fixture(
    params=[
        "wal", "delete", pytest.param("truncate", marks=pytest.mark.slow),
        pytest.param("persist", marks=pytest.mark.slow),
    ]
)  # fmt: skip
def database(request: pytest.FixtureRequest, proj: Path) -> Path:
    path = proj / "data.db"
    connection = sqlite3.connect(path, isolation_level=None)
    mode = request.param
    assert connection.execute(f"PRAGMA journal_mode={mode}").fetchone() == (mode,)
    connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, who TEXT, filler TEXT)")
    connection.close()
    return path


@pytest.fixture
def proj(grantfs: Grantfs, source: Path) -> Path:
    return grantfs.up(source, "--name", "w") / "proj"


def _python(script: str, *words: str | Path) -> list[str]:
    return [sys.executable, "-c", script, *map(str, words)]


def test_processes_take_turns_writing(grantfs: Grantfs, source: Path, database: Path) -> None:
    writers = [subprocess.Popen(_python(WRITER, database, name)) for name in "abc"]
    reader = sqlite3.connect(database, timeout=60)
    while any(writer.poll() is None for writer in writers):
        # What a reader sees is whole at any time.
        count, last = reader.execute("SELECT count(*), coalesce(max(n), 0) FROM t").fetchone()
        assert count == last
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    found = reader.execute("SELECT who, count(*) FROM t GROUP BY who ORDER BY who").fetchall()
    assert found == [("a", 150), ("b", 150), ("c", 150)]
    assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    reader.close()
    grantfs.ask("commit", "-y")
    landed = sqlite3.connect(source / "data.db")
    assert landed.execute("SELECT count(*) FROM t").fetchone() == (450,)
    landed.close()


@pytest.mark.parametrize("who", ["program", "daemon"])
def test_a_transaction_that_was_cut_off_is_rolled_back(
    grantfs: Grantfs, database: Path, who: str
) -> None:
    """The program is killed in the middle of a transaction, or the daemon below it."""
    subprocess.run(_python(WRITER, database, "a"), check=True)
    with subprocess.Popen(
        _python(UNFINISHED, database), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "in the middle\n"
        if who == "daemon":
            grantfs.kill()
        program.kill()
    if who == "daemon":
        grantfs.up("--name", "w")
    connection = sqlite3.connect(database)
    assert connection.execute("SELECT who, count(*) FROM t GROUP BY who").fetchall() == [("a", 150)]
    assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("t",)]
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_the_database_of_the_source_is_not_touched_by_a_checkpoint(
    grantfs: Grantfs, source: Path
) -> None:
    connection = sqlite3.connect(source / "data.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=wal")
    connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)")
    connection.close()
    before = (source / "data.db").read_bytes()
    proj = grantfs.up(source) / "proj"
    inside = sqlite3.connect(proj / "data.db", isolation_level=None)
    inside.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(5000)])
    assert inside.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
    inside.close()
    assert (source / "data.db").read_bytes() == before
    assert not {"data.db-wal", "data.db-shm"} & {*os.listdir(source)}
    assert grantfs.status() == {"proj/data.db": "modified"}
    grantfs.ask("commit", "-y")
    landed = sqlite3.connect(source / "data.db")
    assert landed.execute("SELECT count(*) FROM t").fetchone() == (5000,)
    landed.close()
