"""The console's database: SQLite and PostgreSQL keep alike, earlier versions come to this one, faults are said."""

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text

from inkstone.errors import InkstoneError
from inkstone.serve.store import VERSION, Store
from inkstone.serve.store.tables import METADATA
from inkstone.serve.store.versions import MIGRATIONS


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/c.sqlite"
        return
    dsn = request.getfixturevalue("postgres")
    engine = create_engine(dsn, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("DROP DATABASE IF EXISTS other WITH (FORCE)"))
        connection.execute(text("CREATE DATABASE other"))
    yield dsn.replace("/postgres?", "/other?")


def test_of_two_servers_with_one_database_one_starts_a_job(address: str) -> None:
    stores = [Store(address) for _ in range(4)]
    with ThreadPoolExecutor(4) as together:
        assert list(together.map(lambda one: one.rows("jobs"), stores)) == [[]] * 4, "made once, by all at a time"
        numbers = [stores[0].add("jobs", {"name": "a", "task": {}, "state": "queued"})["id"] for _ in range(6)]
        for number in numbers:
            claims = together.map(lambda one, n=number: one.turn(n, ("queued",), {"state": "running"}, 2), stores)
            assert sum(claims) == (number in numbers[:2]), "once"
        others = [stores[0].add("jobs", {"name": "b", "task": {}, "state": "queued"})["id"] for _ in range(4)]
        claims = together.map(lambda one, n: one.turn(n, ("queued",), {"state": "running"}, 3), stores, others)
        assert sum(claims) == 1, "not more than three at a time, also of different jobs"


def test_whatever_a_model_writes_is_kept(address: str) -> None:
    store = Store(address)
    talk = store.add("conversations", {"title": "a\0" + "水" * 198, "assistant": None, "leaf": None})
    said = {
        "parent": None,
        "role": "user",
        "content": "x\0y\ud800z 😀",
        "model": "",
        "system": "",
        "figures": {"a": 1.5},
    }
    row = store.say(talk["id"], said)
    assert (row["content"], row["figures"]) == ("x�y�z 😀", {"a": 1.5})
    assert [one["id"] for one in store.conversations("\0y%")] == [] and len(store.conversations("Y\ufffdZ")) == 1


@pytest.mark.parametrize("version", range(1, VERSION))
def test_a_database_of_an_earlier_version_is_brought_to_this_one_with_what_it_holds(address: str, version: int) -> None:
    """Made by Store, then taken back to what that version had: without a later table too."""
    back = {1: ["DROP TABLE passages", "DROP TABLE collections", "DROP INDEX ix_conversations_changed"]}
    Store(address).add("conversations", {"title": "水"})
    engine = create_engine(address)
    with engine.begin() as connection:
        for statement in [*back[version], f"UPDATE inkstone_schema SET version = {version}"]:
            connection.execute(text(statement))
    with ThreadPoolExecutor(2) as together:
        rows = list(together.map(lambda _: Store(address).conversations(), range(2)))
    assert [one["title"] for one in rows[0]] == ["水"] and rows[0] == rows[1]
    found = inspect(engine)
    for table in METADATA.tables.values():
        assert {one.name for one in table.indexes} == {one["name"] for one in found.get_indexes(table.name)}
        assert {one.name for one in table.columns} == {one["name"] for one in found.get_columns(table.name)}
    assert Store(address).rows("collections") == [] and len(MIGRATIONS) == VERSION - 1
    engine.dispose()


def test_a_database_of_another_version_or_place_is_refused_in_words(tmp_path: Path) -> None:
    assert Store(str(tmp_path / "c.sqlite")).rows("assistants") == [] and not list(tmp_path.iterdir()), "to look"
    Store(str(tmp_path / "c.sqlite")).conversations()
    with sqlite3.connect(tmp_path / "c.sqlite") as connection:
        connection.execute("UPDATE inkstone_schema SET version = 99")
    with pytest.raises(InkstoneError, match="version 99"):
        Store(str(tmp_path / "c.sqlite")).rows("assistants")
    (tmp_path / "file").write_text("")
    with pytest.raises(InkstoneError, match="cannot be opened"):
        Store(str(tmp_path / "file" / "c.sqlite")).conversations()


@pytest.mark.parametrize(
    ("dsn", "said"),
    [
        ("postgresql+psycopg://me:a:very@secret@/x?host=/nowhere", "cannot be opened .*No such file"),
        ("mysql+pymysql://me:secret@localhost/x", "needs pymysql: install it"),
        ("postgres://me:secret@localhost/x", "cannot be opened .*postgres"),
        ("nonsense://", "cannot be opened"),
    ],
)
def test_a_database_that_does_not_answer_is_one_sentence_without_the_password(dsn: str, said: str) -> None:
    if "psycopg" in dsn:
        pytest.importorskip("psycopg")
    with pytest.raises(InkstoneError, match=said) as refused:
        Store(dsn).rows("jobs")
    assert "secret" not in str(refused.value) and "\n" not in str(refused.value)


def test_a_database_that_goes_away_is_a_sentence_and_is_found_again(address: str) -> None:
    store = Store(address)
    store.rows("jobs")
    with create_engine(address).begin() as connection:
        connection.execute(text("ALTER TABLE jobs RENAME TO away"))
    with pytest.raises(InkstoneError, match=r"database .* failed .*jobs"):
        store.rows("jobs")
    with create_engine(address).begin() as connection:
        connection.execute(text("ALTER TABLE away RENAME TO jobs"))
    assert store.rows("jobs") == []
