"""Time and memory of curation as text grows, under a memory limit that ends the run when it is passed.

    python benchmarks/curate_growth.py --data DATA --mb 200 --mb 1000                  # sizes in MB of text
    python benchmarks/curate_growth.py --data DATA --mb 5000 --limit-gb 2 --scratch DIR
    python benchmarks/curate_growth.py --data DATA --mb 200 --ray 0 --ray 1 --ray 2  # local Ray nodes, processes

The text is real passages with a third of their words replaced (`mixed_corpus.scrambled`), plain JSONL in 16 files.
A second table tells time, memory and disk pass by pass.
Memory is what the process and all its workers hold beside shared pages (files that are mapped count as the system's
cache, which can be taken back at any time). Disk is the most that input aside lay in the output's folder.
"""

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from measured import measure
from mixed_corpus import scrambled, write


def child(corpus: Path, output: Path, processes: int, ray_nodes: int) -> None:
    """Runs in a process of its own; prints what the table needs as JSON."""
    from inkstone.corpus import CorpusSettings, Workers, curate
    from inkstone.progress import Silent

    output.mkdir()
    workers, cluster = Workers(processes), None
    if ray_nodes:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        for _ in range(ray_nodes - 1):
            cluster.add_node(num_cpus=1)
        workers = Workers(ray=cluster.address)
    started = time.perf_counter()
    result = curate(CorpusSettings(inputs=[str(corpus)]), [corpus], output, Silent(), workers=workers)
    wall = time.perf_counter() - started
    manifest = json.loads((output / "manifest.json").read_text())["content"]
    if cluster:
        import ray

        ray.shutdown()
        cluster.shutdown()
    print(json.dumps({"wall": wall, "read": result["documents_in"],
                      "kept": result["documents_out"], "content": manifest}))  # fmt: skip


class Passes:
    """What each pass of a run takes, seen from outside: the newest folder of its scratch is the pass that runs."""

    def __init__(self, output: Path) -> None:
        self._output, self._drafts = output, output / "drafts"
        self.rows: dict[str, dict[str, float]] = {}
        self.disk, self._checked, self._used, self._at = 0, 0.0, 0.0, time.perf_counter()

    def seen(self, held: int, used: float) -> None:
        """Book a sample of memory and CPU seconds to the pass that runs."""
        now = time.perf_counter()
        if now - self._checked > 1:
            self._checked = now
            self._look()
        if self.rows:
            row = self.rows[next(reversed(self.rows))]
            row["wall"] += now - self._at
            row["cpu"] += max(used - self._used, 0)
            row["peak"] = max(row["peak"], held)
        self._used, self._at = max(used, self._used), now

    def _look(self) -> None:
        for folder in sorted(self._drafts.glob("*/"), key=lambda folder: folder.stat().st_ctime):
            self.rows.setdefault(folder.name, {"wall": 0.0, "cpu": 0.0, "peak": 0.0, "disk": 0.0})
        for name, row in self.rows.items():
            row["disk"] = max(row["disk"], _size(self._drafts / name))
        self.disk = max(self.disk, _size(self._output))


def _size(folder: Path) -> int:
    held = 0
    for at, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                held += os.stat(os.path.join(at, name)).st_size  # noqa: PTH116, PTH118
    return held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with zh/ and en/ of .jsonl.zst")
    parser.add_argument("--mb", type=float, action="append", default=[])
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit-gb", type=float, default=2)
    parser.add_argument("--scratch", type=Path, help="where text and corpus are written; default: the system's")
    parser.add_argument("--ray", type=int, action="append", help="on so many local Ray nodes of one core; 0: processes")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        corpus, output, processes, nodes = asked.child
        return child(Path(corpus), Path(output), int(processes), int(nodes))
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{asked.processes} processes, limit {asked.limit_gb} GB for all of them together, load {load}")
    print("| text MB | workers | documents | kept | wall s | CPU s | MB/s | peak GB | disk GB | content |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for megabytes in asked.mb or [200]:
        if asked.scratch:
            Path(asked.scratch).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=asked.scratch) as folder:
            corpus, tables = Path(folder) / "text", []
            size = write(scrambled(asked.data, megabytes), corpus, files=8) / 1e6
            for nodes in asked.ray or [0]:
                output = Path(folder) / "corpus"
                command = [sys.executable, __file__, "--child", str(corpus), str(output)]
                passes, limit = Passes(output), None if nodes else asked.limit_gb
                row = measure([*command, str(asked.processes), str(nodes)], limit, passes.seen)
                shutil.rmtree(output)
                name = f"{nodes} Ray nodes" if nodes else f"{asked.processes} processes"
                print(
                    f"| {size:.0f} | {name} | {row['read']} | {row['kept']} | {row['wall']:.1f} "
                    f"| {row['cpu_of_all']:.1f} | {size / row['wall']:.2f} | {row['peak']:.2f} "
                    f"| {passes.disk / 1e9:.2f} | {str(row['content'])[:12]} |",
                    flush=True,
                )
                tables.append((name, passes.rows))
        for name, rows in tables:
            print(f"\n{name}, {size:.0f} MB of text\n\n| pass | wall s | CPU s | peak GB | bytes left per MB of text |")
            print("|---|---|---|---|---|")
            for step, row in rows.items():
                print(f"| {step} | {row['wall']:.1f} | {row['cpu']:.1f} | {row['peak'] / 1e9:.2f} "
                      f"| {row['disk'] / size:,.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
