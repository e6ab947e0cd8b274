"""The tables. A conversation is a tree: each message names the one it answers, `leaf` the end of the branch shown."""

from sqlalchemy import JSON, Column, Float, ForeignKey, Integer, MetaData, String, Table, Text

VERSION = 1
"""Raised with every change of a table; a database of another version is refused in words."""

METADATA = MetaData()

SCHEMA = Table("inkstone_schema", METADATA, Column("version", Integer, nullable=False))

ASSISTANTS = Table(
    "assistants",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(80), nullable=False),
    Column("avatar", String(16), nullable=False, default=""),
    Column("system", Text, nullable=False, default=""),
    Column("model", String(400), nullable=False, default=""),
    Column("sampling", JSON, nullable=False),
)

CONVERSATIONS = Table(
    "conversations",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("title", String(200), nullable=False, default=""),
    Column("assistant", ForeignKey("assistants.id", ondelete="SET NULL")),
    Column("leaf", Integer),
    Column("changed", Float, nullable=False),
)

MESSAGES = Table(
    "messages",
    METADATA,
    Column("id", Integer, primary_key=True),
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
