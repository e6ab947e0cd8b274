"""Programs of models: hostile ones get nowhere, honest ones pass, and the indentation trap is where it was found."""

import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_evaluate_tasks import DATA, needs_data

from inkstone.errors import InputError
from inkstone.evaluate.protocols import code, find
from inkstone.evaluate.protocols.code import READERS
from inkstone.evaluate.run import sandbox
from inkstone.evaluate.run.runner import ask_all
from inkstone.evaluate.run.sandbox import isolation, require_sandbox, run_program
from inkstone.evaluate.tasks import Item, load

needs_isolation = pytest.mark.skipif(isolation() is None, reason="this machine allows no namespaces (unshare)")


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Path]:
    path = Path.home() / ".inkstone-test-secret"
    path.write_text("secret", encoding="utf-8")
    yield path
    path.unlink()


def test_an_honest_program_passes_and_a_failing_one_does_not() -> None:
    honest = "import math, re, itertools, collections, hashlib, json, random\nassert math.comb(5, 2) == 10"
    assert run_program(honest).passed
    assert run_program("assert 1 == 2") == sandbox.Ran(False, "failed")


@pytest.mark.parametrize("escape", ["import os; os._exit(0)", "import sys; sys.exit(0)", "raise SystemExit"])
def test_leaving_early_with_a_good_exit_code_is_no_pass(escape: str) -> None:
    assert not run_program(escape).passed


@needs_isolation
@pytest.mark.parametrize(
    "program",
    [
        "import socket; socket.create_connection(('127.0.0.1', {port}), 1)",
        "import socket; socket.create_connection(('8.8.8.8', 53), 1)",
        "open({secret!r}).read()",
        "import os, sys; assert [one for one in os.listdir({home!r}) if '/' + one + '/' not in sys.base_prefix]",
        "open('/etc/passwd').read()",
        "import os; os.listdir('/proc/self')",
        "open('/usr/inkstone', 'w')",
        "open({cwd!r} + '/pyproject.toml')",
        "import os; os.chroot('/tmp')",
        "import os; os.setuid(0)",
        "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0",
        "import ctypes; assert ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, b'') == 0",
        "open('/tmp/large', 'wb').write(b'0' * (5 << 20))",
        "[open(f'/tmp/{{n}}', 'wb').write(b'0' * 1000000) for n in range(60)]",
        "x = bytearray(3 << 30)",
        "import os; os.kill(-1, 9); os.kill(1, 9); os.kill({pid}, 9)",
    ],
)
def test_a_hostile_program_gets_nothing(program: str, secret: Path) -> None:
    """Network, home, system files, other processes, privileges, memory and disk are out of reach."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        facts = {"port": server.getsockname()[1], "secret": str(secret), "home": str(Path.home())}
        facts |= {"cwd": str(Path.cwd()), "pid": os.getpid()}
        ran = run_program(program.format(**facts), seconds=2.0)
    assert ran.inside
    assert not ran.passed


@needs_isolation
@pytest.mark.parametrize(
    "program",
    [
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "while True: print('x' * 100000, flush=True)",
        "import time, os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.setsid()\ntime.sleep(60)",
    ],
)
def test_endless_programs_are_ended_with_all_their_children(program: str) -> None:
    before = time.perf_counter()
    ran = run_program(program + "\n# marker-of-this-test", seconds=1.0)
    assert (ran.passed, ran.inside) == (False, True)
    assert time.perf_counter() - before < 20
    while left := [path for path in Path("/proc").glob("[0-9]*/cmdline") if b"jail.py" in read(path)]:
        assert time.perf_counter() - before < 20, left
        time.sleep(0.02)


@pytest.mark.parametrize(
    "command", [[*sandbox._NAMESPACES, "--user", "--map-root-user"], sandbox._BUBBLEWRAP], ids=["user", "bubblewrap"]
)
def test_a_plain_user_s_namespaces_hold_as_well(command: list[str], secret: Path) -> None:
    """Without being root on the machine: root of a namespace, until everything is given up; and bubblewrap's."""
    if not (shutil.which(command[0]) and sandbox._run("pass", command, 10.0).passed):
        pytest.skip(f"this machine has no {command[0]}, or lets it make no user namespaces")
    hostile = ["import os; os.chroot('/tmp')", f"open({str(secret)!r}).read()", "import os; os.kill(1, 9); 1 / 0",
               "import socket; socket.create_connection(('8.8.8.8', 53), 1)",
               "import ctypes; assert ctypes.CDLL(None).mount(b'n', b'/tmp', b'tmpfs', 0, b'') == 0",
               "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0", "open('/usr/inkstone', 'w')",
               "[open(f'/tmp/{n}', 'wb').write(b'0' * 1000000) for n in range(60)]", "x = bytearray(3 << 30)",
               "import os; os.listdir('/proc/self')", f"open({str(Path.cwd() / 'pyproject.toml')!r})"]  # fmt: skip
    for program in hostile:
        ran = sandbox._run(program, command, 2.0)
        assert (ran.passed, ran.inside) == (False, True), program


def test_bubblewrap_is_taken_where_unshare_is_not_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ubuntu since 24.04, among others."""
    if not (shutil.which("bwrap") and sandbox._run("pass", sandbox._BUBBLEWRAP, 10.0).passed):
        pytest.skip("needs Debian's bubblewrap, and a system that lets it work")
    monkeypatch.setattr(sandbox, "_NAMESPACES", ["unshare", "--nothing-of-this-kind"])
    isolation.cache_clear()
    try:
        require_sandbox(False)
        assert run_program("import os; assert os.getuid() == 65534").passed
        ran = run_program("import time, os\nos.setsid()\nif os.fork(): time.sleep(60)\ntime.sleep(60)", seconds=0.3)
        assert (ran.passed, ran.inside) == (False, True)
        deadline = time.perf_counter() + 10
        while [path for path in Path("/proc").glob("[0-9]*/cmdline") if b"jail.py" in read(path)]:
            assert time.perf_counter() < deadline
    finally:
        isolation.cache_clear()


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_where_nothing_can_be_isolated_the_task_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "isolation", lambda: None)
    with pytest.raises(InputError, match="--allow-unsandboxed"):
        require_sandbox(False)
    require_sandbox(True)
    assert run_program("assert True").passed
    assert not run_program("x = bytearray(3 << 30)").passed


@needs_data
def test_the_published_solutions_pass_their_tests_under_every_protocol() -> None:
    items = load("humaneval", DATA).items
    assert len(items) == 164
    for item in items[::40]:
        [solution] = item.answers
        assert READERS["code_continued"](solution, item).score == 1.0
        whole = f"Here it is:\n```python\n{item.texts['prompt']}{solution}\n```\nDone."
        assert READERS["code_house"](whole, item).score == 1.0
        assert READERS["code_house"](f"```python\n{solution}```", item).score == 1.0
        assert READERS["code_opencompass"](whole, item).score == 1.0
    [ask] = ask_all(find("humaneval"), load("humaneval", DATA), items[:1])
    assert ask.prompt() == items[0].texts["prompt"]


ADD = Item("x", "humaneval", {"prompt": 'def add(a, b):\n    """Sum."""\n', "entry_point": "add",
                              "test": "def check(f):\n    assert f(2, 3) == 5\n"})  # fmt: skip


def test_a_bare_body_loses_its_indentation_under_opencompass_and_nowhere_else() -> None:
    """The trap in which base models fail and chat answers pass."""
    body = "    total = a + b\n    return total\n"
    assert code.opencompass(body, ADD).endswith('"""\ntotal = a + b\n    return total\n')
    assert READERS["code_opencompass"](body, ADD).score == 0.0
    assert READERS["code_continued"](body, ADD).score == READERS["code_house"](body, ADD).score == 1.0
    assert READERS["code_opencompass"]("def add(a, b):\n    return a + b", ADD).score == 1.0
    assert READERS["code_house"]("", ADD).prediction is None
