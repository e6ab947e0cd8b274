"""The database of the console, opened at the first use: SQLite in a file, or any other by its DSN.

    store = Store("console.sqlite")
    number = store.add("conversations", {"title": "水"})

Rows go in and out as plain dicts; the routes have checked them.
"""

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, delete, event, func, insert, or_, select, true, update
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from inkstone.errors import Absent, InkstoneError
from inkstone.serve.store.tables import COLLECTIONS, CONVERSATIONS, JOBS, MESSAGES, METADATA, PASSAGES
from inkstone.serve.store.versions import VERSION, alone, migrate

Row = dict[str, Any]


def default_address() -> str:
    """Where the console keeps its database unless told otherwise."""
    home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return str(home / "inkstone" / "console.sqlite")


class Store:
    """`address` is a file or a DSN such as postgresql+psycopg://user@host/name."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._lock = threading.Lock()

    @cached_property
    def _engine(self) -> Engine:
        address, file = self.address, "://" not in self.address
        try:
            if file:
                Path(address).parent.mkdir(parents=True, exist_ok=True)
                address = f"sqlite:///{address}"
            engine = create_engine(address, pool_pre_ping=not file)
            if engine.dialect.name == "sqlite":
                event.listen(engine, "connect", _prepare_sqlite)
            with engine.begin() as connection:
                version = migrate(connection)
        except (SQLAlchemyError, OSError, ImportError) as error:
            raise self._fault("cannot be opened", error) from error
        if version > VERSION:
            raise InkstoneError(
                f"the console's database {self._shown} is of version {version}, this Inkstone keeps {VERSION}: "
                f"name another with --database"
            )
        return engine

    @property
    def _shown(self) -> str:
        """The address for people: without the password."""
        return re.sub(r"(://[^:/@]*:).*@", r"\1***@", self.address)

    def _fault(self, what: str, error: Exception) -> InkstoneError:
        if isinstance(error, ImportError) and error.name:
            how = "pip install 'inkstone[postgres]'" if "psycopg" in error.name else "install it"
            return InkstoneError(f"the console's database {self._shown} needs {error.name}: {how}")
        lines = str(error.orig if isinstance(error, DBAPIError) else error).strip().splitlines()
        why = lines[0] if lines else type(error).__name__
        return InkstoneError(f"the console's database {self._shown} {what} ({why})")

    @contextmanager
    def _begin(self) -> Iterator[Any]:
        with self._lock:
            engine = self._engine
        try:
            with engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise self._fault("failed", error) from error

    def rows(self, table: str) -> list[Row]:
        """All rows of a table, in the order they were made. To look makes no file."""
        if "://" not in self.address and not Path(self.address).is_file():
            return []
        with self._begin() as connection:
            return _rows(connection.execute(select(_TABLES[table]).order_by(_TABLES[table].c.id)))

    def row(self, table: str, number: int) -> Row:
        """One row."""
        with self._begin() as connection:
            return _one(connection, table, number)

    def conversations(self, search: str = "", most: int = 200) -> list[Row]:
        """The last ones changed, with `search` in their title or a message."""
        asked = select(CONVERSATIONS).order_by(CONVERSATIONS.c.changed.desc(), CONVERSATIONS.c.id.desc()).limit(most)
        if search:
            said = select(MESSAGES.c.conversation).where(MESSAGES.c.content.icontains(search, autoescape=True))
            title = CONVERSATIONS.c.title.icontains(search, autoescape=True)
            asked = asked.where(or_(title, CONVERSATIONS.c.id.in_(said)))
        with self._begin() as connection:
            return _rows(connection.execute(asked))

    def conversation(self, number: int) -> Row:
        """One, with all its messages."""
        with self._begin() as connection:
            row = _one(connection, "conversations", number)
            said = select(MESSAGES).where(MESSAGES.c.conversation == number).order_by(MESSAGES.c.id)
            return {**row, "messages": _rows(connection.execute(said))}

    def add(self, table: str, row: Row) -> Row:
        """A new row, with its number."""
        stamps = {
            "conversations": ("changed",),
            "collections": ("changed",),
            "datasets": ("created",),
            "jobs": ("created", "changed"),
        }
        row = {**row, **dict.fromkeys(stamps.get(table, ()), time.time())}
        with self._begin() as connection:
            if table == "conversations" and row.get("assistant") is not None:
                _one(connection, "assistants", row["assistant"])
            number = connection.execute(insert(_TABLES[table]).values(row)).inserted_primary_key[0]
            return _one(connection, table, number)

    def change(self, table: str, number: int, row: Row) -> Row:
        """The row, changed."""
        if table == "conversations":
            row = {**row, "changed": time.time()}
        with self._begin() as connection:
            _one(connection, table, number)
            if row:
                connection.execute(update(_TABLES[table]).where(_TABLES[table].c.id == number).values(row))
            return _one(connection, table, number)

    def remove(self, table: str, number: int) -> None:
        """Forget a row; a conversation's messages go with it."""
        with self._begin() as connection:
            _one(connection, table, number)
            connection.execute(delete(_TABLES[table]).where(_TABLES[table].c.id == number))

    def turn(self, job: int, before: tuple[str, ...], values: Row, at_once: int | None = None) -> bool:
        """Change a job if its state is one of `before`, and fewer than `at_once` run; False where it was not so.

        Nobody else changes anything meanwhile, so of two servers with one database only one starts a job.
        """
        others = JOBS.alias()
        busy = select(func.count()).select_from(others).where(others.c.state.in_(("running", "stopping")))
        room = busy.scalar_subquery() < at_once if at_once is not None else true()
        one = update(JOBS).where(JOBS.c.id == job, JOBS.c.state.in_(before), room)
        with self._begin() as connection:
            alone(connection)
            return bool(connection.execute(one.values(**values, changed=time.time())).rowcount)

    def say(self, conversation: int, message: Row) -> Row:
        """Add a message to a conversation, whose shown branch ends there now."""
        with self._begin() as connection:
            _one(connection, "conversations", conversation)
            if message["parent"] is not None and _one(connection, "messages", message["parent"])["conversation"] != (
                conversation
            ):
                raise Absent(f"message {message['parent']} is in another conversation")
            row = {**message, "conversation": conversation, "created": time.time()}
            number = connection.execute(insert(MESSAGES).values(row)).inserted_primary_key[0]
            where = update(CONVERSATIONS).where(CONVERSATIONS.c.id == conversation)
            connection.execute(where.values(leaf=number, changed=time.time()))
            return _one(connection, "messages", number)

    def collections(self) -> list[Row]:
        """All of them with their files and how many passages each has."""
        rows = self.rows("collections")
        counted = select(PASSAGES.c.collection, PASSAGES.c.file.label("name"), func.count().label("passages"))
        if rows:
            with self._begin() as connection:
                files = _rows(connection.execute(counted.group_by(PASSAGES.c.collection, PASSAGES.c.file)))
            for row in rows:
                row["files"] = [file for file in files if file["collection"] == row["id"]]
        return rows

    def passages(self, collection: int) -> list[Row]:
        """All of a collection."""
        with self._begin() as connection:
            asked = select(PASSAGES).where(PASSAGES.c.collection == collection).order_by(PASSAGES.c.id)
            return _rows(connection.execute(asked))

    def keep_file(self, collection: int, file: str, passages: list[tuple[int, str]]) -> None:
        """These passages of a file instead of those it had; none: the file is forgotten."""
        rows = [{"collection": collection, "file": file, "place": place, "text": text} for place, text in passages]
        with self._begin() as connection:
            _one(connection, "collections", collection)
            gone = (PASSAGES.c.collection == collection, PASSAGES.c.file == file)
            if not connection.execute(delete(PASSAGES).where(*gone)).rowcount and not rows:
                raise Absent(f"collection {collection} has no file {file}, or it was removed")
            if rows:
                connection.execute(insert(PASSAGES), rows)
            one = update(COLLECTIONS).where(COLLECTIONS.c.id == collection)
            connection.execute(one.values(changed=time.time()))

    def preferences(self) -> Iterator[Row]:
        """What people's thumbs say, as rows of a preference set (`messages`, `chosen`, `rejected`; whose `model`).

        A better answer that was written is preferred to the one it corrects; of several answers to the same message,
        one with a thumb up to one with a thumb down.
        """
        by_id, answers = self._answers()
        liked: dict[int, list[str]] = {}
        for row in answers:
            if row["rating"] > 0:
                liked.setdefault(row["parent"], []).append(row["content"])
        for row in answers:
            chosen = [row["better"]] if row["better"] else []
            chosen += liked.get(row["parent"], []) if row["rating"] < 0 else []
            for better in dict.fromkeys(chosen):
                if better.strip() and better.strip() != row["content"].strip() and row["content"].strip():
                    said = {"messages": _path(by_id, row), "model": row["model"]}
                    yield {**said, "chosen": better, "rejected": row["content"]}

    def verdicts(self) -> Iterator[Row]:
        """Every answer with a thumb, as rows of a verdict set (`prompt`, `completion`, `label`; whose `model`)."""
        by_id, answers = self._answers()
        for row in answers:
            if row["rating"] and row["content"].strip():
                answer = [{"role": "assistant", "content": row["content"]}]
                said = {"prompt": _path(by_id, row), "completion": answer, "label": row["rating"] > 0}
                yield {**said, "model": row["model"]}

    def _answers(self) -> tuple[dict[int, Row], list[Row]]:
        """All messages by number, and those that answer one."""
        with self._begin() as connection:
            rows = _rows(connection.execute(select(MESSAGES).order_by(MESSAGES.c.id)))
        answers = [row for row in rows if row["role"] == "assistant" and row["parent"] is not None]
        return {row["id"]: row for row in rows}, answers


_TABLES = METADATA.tables


def _rows(result: Any) -> list[Row]:
    return [dict(row) for row in result.mappings()]


def _one(connection: Connection, table: str, number: int) -> Row:
    found = _rows(connection.execute(select(_TABLES[table]).where(_TABLES[table].c.id == number)))
    if not found:
        raise Absent(f"there is no {table.removesuffix('s')} {number}, or it was removed")
    return found[0]


def _path(by_id: dict[int, Row], answer: Row) -> list[Row]:
    """The conversation before an answer, its system prompt first."""
    said: list[Row] = []
    row = by_id.get(answer["parent"])
    while row is not None:
        # A question that got no answer was not asked again.
        if row["content"].strip() and (not said or said[-1]["role"] != row["role"]):
            said.append({"role": row["role"], "content": row["content"]})
        row = by_id.get(row["parent"]) if row["parent"] is not None else None
    system = [{"role": "system", "content": answer["system"]}] if answer["system"] else []
    return system + said[::-1]


def _prepare_sqlite(connection: Any, _: Any) -> None:
    """Foreign keys hold, and readers do not wait for a writer."""
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA busy_timeout = 5000")
