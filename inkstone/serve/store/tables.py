"""The tables. A conversation is a tree: each message names the one it answers, `leaf` the end of the branch shown."""

from typing import Any

import sqlalchemy
from sqlalchemy import JSON, Column, Float, ForeignKey, Integer, MetaData, Table, TypeDecorator


class Text(TypeDecorator[str]):
    """What people and models write; a zero and half a character, which no database takes, become `�`."""

    impl: type[sqlalchemy.String] = sqlalchemy.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return value and value.replace("\0", "�").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class String(Text):
    """A short one."""

    impl, cache_ok = sqlalchemy.String, True


METADATA = MetaData()


def _table(name: str, *columns: Column[Any]) -> Table:
    """A table whose rows have a number, which no later row gets: addresses and tasks name what is gone by it."""
    return Table(name, METADATA, Column("id", Integer, primary_key=True), *columns, sqlite_autoincrement=True)


ASSISTANTS = _table(
    "assistants",
    Column("name", String(80), nullable=False),
    Column("avatar", String(16), nullable=False, default=""),
    Column("system", Text, nullable=False, default=""),
    Column("model", String(400), nullable=False, default=""),
    Column("sampling", JSON, nullable=False),
)

CONVERSATIONS = _table(
    "conversations",
    Column("title", String(200), nullable=False, default=""),
    Column("assistant", ForeignKey("assistants.id", ondelete="SET NULL")),
    Column("leaf", Integer),
    Column("changed", Float, nullable=False, index=True),
)

MESSAGES = _table(
    "messages",
    Column("conversation", ForeignKey("conversations.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("parent", Integer),
    Column("role", String(16), nullable=False),
    Column("content", Text, nullable=False),
    Column("model", String(400), nullable=False, default=""),
    Column("system", Text, nullable=False, default=""),
    Column("figures", JSON),
    Column("rating", Integer, nullable=False, default=0),
    Column("better", Text),
    Column("created", Float, nullable=False),
)

DATASETS = _table(
    "datasets",
    Column("name", String(120), nullable=False),
    Column("about", JSON, nullable=False),
    Column("created", Float, nullable=False),
)
"""Files that tasks learn from; `about` has kind, rows, size, and of the first faulty rows what is wrong with them."""

JOBS = _table(
    "jobs",
    Column("name", String(120), nullable=False),
    Column("task", JSON, nullable=False),
    Column("state", String(16), nullable=False),
    Column("process", String(120), nullable=False, default=""),
    Column("error", Text, nullable=False, default=""),
    Column("created", Float, nullable=False),
    Column("changed", Float, nullable=False),
)
"""Runs as processes: queued, running, stopping, then stopped, succeeded or failed. `process` is its number and when it
began, which finds it again after the server was restarted."""

COLLECTIONS = _table(
    "collections",
    Column("name", String(80), nullable=False),
    Column("changed", Float, nullable=False),
)

PASSAGES = _table(
    "passages",
    Column("collection", ForeignKey("collections.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("file", String(120), nullable=False),
    Column("place", Integer, nullable=False),
    Column("text", Text, nullable=False),
)
"""What private knowledge is looked up in; `place` is the line of the file in which a passage begins."""
