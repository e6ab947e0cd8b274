"""The console: its pages, and the routes under /api that keep conversations, assistants, ratings and tasks.

    store = Store("console.sqlite")
    mount_console(app, store, Jobs(store, Path("tasks"), library))

Pages are ES modules as they stand here, without a build; a page may load from this server and nowhere else. Answers
themselves come from /v1, as for any client.
"""

from inkstone.serve.console.routes import mount_console

__all__ = ["mount_console"]
