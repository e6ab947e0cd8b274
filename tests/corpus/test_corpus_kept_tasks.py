"""Tasks that are kept: workers, clusters, groupings and kills change nothing; a rerun does only what is missing."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from test_corpus_stage import story

from inkstone.corpus import CorpusSettings, Workers, curate
from inkstone.corpus.run import kept_tasks, stage
from inkstone.corpus.run.kept_tasks import run_tasks
from inkstone.errors import InkstoneError, InputError
from inkstone.progress import Silent

SETTINGS = {
    "lines": {"max_line_documents": 15},
    "sentences": {"max_documents": 3, "near": True},
    "substrings": {"min_tokens": 25},
}
NOTICE = "Every reader of this page agrees to the rules that the owners of the page wrote down for them."


@pytest.fixture(scope="module", autouse=True)
def small_tasks() -> Iterator[None]:
    """Groups and partitions so small that a few files make many tasks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "GROUP_BYTES", 20_000)
        patch.setattr(stage, "PARTITION_BYTES", 60_000)
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six files with copies, edited copies, shared lines and sentences across them; one is empty."""
    folder, rng = tmp_path_factory.mktemp("in"), random.Random(5)
    texts = [story(rng) for _ in range(90)]
    texts += texts[:10] + ["\n".join([*text.split("\n")[:-1], "A different end."]) for text in texts[10:20]]
    texts += [f"{story(rng)}\nSkip to content | Home | About | Login" for _ in range(6)]
    texts += [f"{story(rng)} {NOTICE.replace('rules', rng.choice(['rules', 'terms']))}" for _ in range(12)]
    passage = " ".join(story(rng).split("\n")[:3])
    texts += [f"{story(rng)} {passage} {story(rng)}" for _ in range(5)]
    rng.shuffle(texts)
    for number in range(5):
        rows = [json.dumps({"text": text, "source": f"s{number % 2}"}) for text in texts[number::5]]
        (folder / f"part{number}.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "part9.jsonl").write_text("")
    return sorted(folder.iterdir())


def make(inputs: list[Path], output: Path, workers: Workers, **changes: object) -> Path:
    output.mkdir()
    settings = CorpusSettings.model_validate({**SETTINGS, **changes})
    curate(settings, inputs, output, Silent(), scratch=output.parent / "scratch", workers=workers)
    return output


@pytest.fixture(scope="module")
def corpus(inputs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept_tasks, "write_manifest", _counting(tasks := []))
        make(inputs, place / "out", Workers(1))
    (place / "tasks").write_text(str(len(tasks)))
    return place / "out"


def content(output: Path) -> dict[str, str]:
    """Digest of every file except the report, which tells of time."""
    return {
        path.relative_to(output).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name != "report.json"
    }


def test_every_kind_of_removal_happens_in_these_tests(corpus: Path) -> None:
    rules = set(pq.read_table(corpus / "audit")["rule"].to_pylist())
    assert rules >= {"exact_duplicate", "near_duplicate", "menu_line", "repeated_sentence", "near_repeated_sentence",
                     "repeated_substring"}  # fmt: skip


def test_two_processes_write_the_bytes_of_one(corpus: Path, inputs: list[Path], tmp_path: Path) -> None:
    assert content(make(inputs, tmp_path / "out", Workers(2))) == content(corpus)


@pytest.fixture(scope="module")
def ray_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray writes a token file there, once for all its clusters of this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("ray_home")
def test_a_ray_cluster_writes_the_bytes_of_one_process(corpus: Path, inputs: list[Path], tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    try:
        assert content(make(inputs, tmp_path / "out", Workers(ray="local"))) == content(corpus)
    finally:
        ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_home")
def test_two_ray_nodes_write_the_bytes_of_one_process(corpus: Path, inputs: list[Path], tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        assert content(make(inputs, tmp_path / "out", Workers(ray=cluster.address))) == content(corpus)
        assert len([node for node in ray.nodes() if node["Alive"]]) == 2
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_ray_address_where_nothing_answers_is_a_sentence(
    inputs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'inkstone\[cluster\]'"):
        make(inputs, tmp_path / "out", Workers(ray="local"))


@pytest.mark.parametrize(("group", "partition"), [(1, 10_000_000), (10_000_000, 3_000)])
def test_groups_of_files_and_partitions_of_keys_do_not_change_the_documents(
    corpus: Path, inputs: list[Path], group: int, partition: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "GROUP_BYTES", group)
    monkeypatch.setattr(stage, "PARTITION_BYTES", partition)
    other = make(inputs[::-1], tmp_path / "out", Workers(1))
    for part in ("train", "heldout"):
        assert pq.read_table(other / part).equals(pq.read_table(corpus / part))
    order = [(name, "ascending") for name in ("id", "rule", "position", "text")]
    removed, expected = (pq.read_table(folder / "audit").sort_by(order) for folder in (other, corpus))
    assert removed.equals(expected)


KILLED = """
import os, signal, sys
from pathlib import Path
from inkstone.corpus import CorpusSettings, Workers, curate
from inkstone.corpus.run import kept_tasks, stage
from inkstone.progress import Silent
stage.GROUP_BYTES, stage.PARTITION_BYTES = 20_000, 60_000
name, left = sys.argv[1], 2
def mark(place, *given, write=kept_tasks.write_manifest):
    global left
    left -= place.parent.name == name
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    write(place, *given)
kept_tasks.write_manifest = mark
settings = CorpusSettings.model_validate_json(sys.argv[2])
output = Path(sys.argv[3])
output.mkdir()
curate(settings, [Path(name) for name in sys.argv[4:]], output, Silent(), output.parent / "scratch", Workers(1))
"""


@pytest.mark.parametrize("name", ["read", "sentences", "rewrite", "windows", "repeats"])
def test_a_run_killed_in_any_pass_continues_where_it_was_and_ends_with_the_same_bytes(
    corpus: Path, inputs: list[Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", KILLED, name, json.dumps(SETTINGS), str(tmp_path / "out"), *map(str, inputs)]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    shutil.rmtree(tmp_path / "out")  # the caller's draft; the scratch directory stays
    finished = len(list((tmp_path / "scratch").glob("*/*/manifest.json")))
    monkeypatch.setattr(kept_tasks, "write_manifest", _counting(done := []))
    assert content(make(inputs, tmp_path / "out", Workers(1))) == content(corpus)
    assert finished and len(done) == int((corpus.parent / "tasks").read_text()) - finished


def test_a_run_continues_with_other_workers(
    inputs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    def run(number: int) -> None:
        (output := tmp_path / str(number)).mkdir()
        settings = CorpusSettings.model_validate({**SETTINGS, "workers": number})
        curate(settings, inputs, output, Silent(), scratch=tmp_path / "scratch", workers=Workers(1))

    gather = stage._gather
    monkeypatch.setattr(stage, "_gather", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(1)
    monkeypatch.setattr(stage, "_gather", gather)
    monkeypatch.setattr(kept_tasks, "write_manifest", _counting(done := []))
    run(2)
    assert not [place for place in done if place.parent.parent == tmp_path / "scratch"]


def _counting(calls: list[Path], write=kept_tasks.write_manifest):  # type: ignore[no-untyped-def]
    def counted(directory: Path, values: dict[str, object]) -> None:
        calls.append(directory)
        write(directory, values)

    return counted


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_a_damaged_file_of_a_finished_task_is_made_again(damage: str, tmp_path: Path) -> None:
    (place,) = run_tasks(tmp_path, count_up, [7], "key", Workers(1))
    file = place / "number"
    match damage:
        case "truncated":
            file.write_text("")
        case "changed":
            file.write_text("8")
        case "missing":
            file.unlink()
    run_tasks(tmp_path, count_up, [7], "key", Workers(1))
    assert file.read_text() == "7"


def test_a_finished_task_is_done_again_only_when_its_argument_or_settings_change(tmp_path: Path) -> None:
    def made(argument: int, key: str) -> int:
        (place,) = run_tasks(tmp_path, count_up, [argument], key, Workers(1))
        return (place / "number").stat().st_mtime_ns

    first = made(7, "key")
    assert made(7, "key") == first
    second = made(7, "other")
    assert second != first
    assert made(8, "other") != second


def count_up(argument: int, draft: Path) -> None:
    (draft / "number").write_text(str(argument))


def die_once(argument: tuple[int, Path], draft: Path) -> None:
    """Kills its own process the first time the second task runs."""
    number, flag = argument
    if number == 1 and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    count_up(number, draft)


def die(argument: int, draft: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_killed_once_costs_only_its_task(tmp_path: Path) -> None:
    places = run_tasks(tmp_path, die_once, [(n, tmp_path / "flag") for n in range(4)], "key", Workers(2))
    assert [(place / "number").read_text() for place in places] == ["0", "1", "2", "3"]


def work_long(argument: int, draft: Path) -> None:
    """Says which process it is, and is busy for longer than any test."""
    Path(os.environ["WORKERS"], str(os.getpid())).touch()
    time.sleep(600)


LONG = """
import sys
from pathlib import Path
from inkstone.corpus.run.kept_tasks import Workers, run_tasks
from test_corpus_kept_tasks import work_long
if __name__ == "__main__":
    run_tasks(Path(sys.argv[1]), work_long, [1, 2], "key", Workers(2))
"""


def test_workers_end_with_a_killed_run(tmp_path: Path) -> None:
    (tmp_path / "workers").mkdir()
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "WORKERS": str(tmp_path / "workers"), "PYTHONPATH": paths}
    run = subprocess.Popen([sys.executable, "-c", LONG, str(tmp_path / "tasks")], env=environment)
    wait_until(lambda: len(list((tmp_path / "workers").iterdir())) == 2)
    run.kill()
    run.wait()
    pids = [int(path.name) for path in (tmp_path / "workers").iterdir()]
    wait_until(lambda: not any(is_running(pid) for pid in pids))


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_worker_that_keeps_dying_ends_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InkstoneError, match=r"killed 3 times.*run the same command again with fewer --workers"):
        run_tasks(tmp_path, die, [1, 2], "key", Workers(2))


def test_known_corpora_are_compared_by_their_signatures_alone(corpus: Path, inputs: list[Path], tmp_path: Path) -> None:
    """Of a crawl that was curated before, only what is new stays; the old corpus's text is not needed."""
    known = tmp_path / "known"
    shutil.copytree(corpus / "signatures", known / "signatures")
    new = tmp_path / "new.jsonl"
    rng = random.Random(77)
    fresh = [story(rng) for _ in range(30)]
    new.write_text(inputs[0].read_text() + "".join(json.dumps({"text": text}) + "\n" for text in fresh))
    grown = make([new], tmp_path / "out", Workers(1), dedup={"known": [str(known)]}, substrings={})
    kept = [text for part in ("train", "heldout") for text in pq.read_table(grown / part)["text"].to_pylist()]
    assert sorted(kept) == sorted(fresh)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_disk_that_fills_up_costs_only_the_unfinished_task(corpus: Path, inputs: list[Path], disk: Path) -> None:
    with pytest.raises(InkstoneError, match="the disk is full"):
        make(inputs, disk / "out", Workers(1))
    finished = len(list((disk / "scratch").glob("*/*/manifest.json")))
    assert finished
    subprocess.run(["mount", "-o", "remount,size=32m", str(disk)], check=True)
    shutil.rmtree(disk / "out")
    assert content(make(inputs, disk / "out", Workers(1))) == content(corpus)
