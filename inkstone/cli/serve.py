"""`inkstone serve`: models behind the OpenAI API, until Ctrl-C or SIGTERM."""

import logging
import socket
from contextlib import suppress
from pathlib import Path

import typer

from inkstone.errors import InputError
from inkstone.serve.adapters import find_adapters
from inkstone.serve.models import Library, ServeSettings, find_models


def serve_models(
    paths: list[Path],
    settings: ServeSettings,
    host: str,
    port: int,
    keys: list[str],
    limits: tuple[int | None, int | None],
    drain_s: int,
    database: str | None,
    console: bool,
    tasks: tuple[Path | None, int],
    adapters: list[str],
) -> None:
    """Serve until told to stop; requests that run then have `drain_s` to end. `tasks` are their folder and how many run
    at once; they outlive the server."""
    try:
        import uvicorn

        from inkstone.serve.app import create_app
        from inkstone.serve.console import mount_console
        from inkstone.serve.guard import Guard, stays_here
        from inkstone.serve.jobs import Jobs
        from inkstone.serve.store import Store, default_address
    except ImportError as error:
        raise InputError(f"serving needs {error.name}: pip install 'inkstone[serve]'") from error
    if any(len(key) < 8 for key in keys):
        raise InputError("an API key has fewer than 8 characters: take a longer one")
    if not keys and not stays_here(host):
        raise InputError(
            f"--host {host} can be reached from other machines: give an --api-key (or INKSTONE_API_KEY) first"
        )
    directories = find_models(paths)
    library = Library(directories, settings, find_adapters(adapters, directories))
    try:  # before anything is begun or said: another server may have the port, and this one's tasks
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        why = str(error.strerror).partition(" (")[0]
        raise InputError(f"--host {host} --port {port} cannot be had ({why}): choose another") from error
    address = f"http://{f'[{host}]' if family == socket.AF_INET6 else host}:{listening.getsockname()[1]}"
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("inkstone.serve").setLevel(logging.INFO)
    typer.echo(f"models: {', '.join(library.names)}")
    typer.echo(f"{address}/v1 speaks the OpenAI API; Ctrl-C ends it")
    app = create_app(library, Guard(keys, *limits))
    if console:
        store, (folder, at_once) = Store(database or default_address()), tasks
        beside = Path(default_address() if "://" in store.address else store.address).with_suffix(".tasks")
        mount_console(app, store, Jobs(store, folder or beside, library, at_once))
        typer.echo(f"{address}/ is a page to chat with them and to tune them")
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=drain_s,
        http="h11",  # httptools, where it is installed, takes headers of any size
        h11_max_incomplete_event_size=64 * 1024,
    )
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
