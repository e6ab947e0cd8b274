"""What the console keeps: assistants, conversations, their messages and how people rated them, in a database."""

from inkstone.serve.store.store import Store, default_address
from inkstone.serve.store.versions import VERSION

__all__ = ["VERSION", "Store", "default_address"]
