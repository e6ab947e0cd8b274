"""Databases of earlier versions are brought to the tables of `tables.py` when they are opened.

A change of a table is one more row of MIGRATIONS; a new table needs none, for it is made where it is missing.
"""

from sqlalchemy import Column, Connection, Integer, Table, delete, insert, inspect, select, text

from inkstone.serve.store.tables import METADATA

MIGRATIONS = (("conversations", "CREATE INDEX ix_conversations_changed ON conversations (changed)"),)
"""What each version changed: a table, and a statement that every database understands."""

VERSION = 1 + len(MIGRATIONS)

_SCHEMA = Table("inkstone_schema", METADATA, Column("version", Integer, nullable=False))


def migrate(connection: Connection) -> int:
    """Make the tables, or bring them to what they are now; the database's version, VERSION unless it is newer."""
    alone(connection)
    known = inspect(connection).get_table_names()
    version = connection.scalar(select(_SCHEMA.c.version)) if _SCHEMA.name in known else None
    for table, statement in MIGRATIONS[version - 1 :] if version else ():
        if table in known:  # else it is made as it is now
            connection.execute(text(statement))
    if version is None or version <= VERSION:
        METADATA.create_all(connection)
        connection.execute(delete(_SCHEMA))
        connection.execute(insert(_SCHEMA).values(version=VERSION))
    return max(version or 0, VERSION)


def alone(connection: Connection) -> None:
    """Wait until no other server has come here, and keep others out until the transaction ends."""
    said = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "SELECT pg_advisory_xact_lock(18530)"}
    if connection.dialect.name in said:
        connection.exec_driver_sql(said[connection.dialect.name])
