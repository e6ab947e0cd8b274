"""The corpus stage: raw files in, `train/`, `heldout/`, `audit/`, `report.json` and `manifest.json` out.

`curate` is the list of its steps; `passes.py` has the steps. The result depends on the content of the files and the
settings only: not on the order of the inputs, nor on where they lie.
"""

import json
import shutil
import time
from pathlib import Path

from inkstone.corpus import audit as audits
from inkstone.corpus import passes
from inkstone.corpus.audit import Audit
from inkstone.corpus.dedup import find_duplicates
from inkstone.corpus.files import find_files
from inkstone.corpus.report import Report
from inkstone.corpus.rules import key_of
from inkstone.corpus.settings import CorpusSettings
from inkstone.corpus.shards import Shards
from inkstone.errors import InkstoneError, InputError
from inkstone.progress import Progress
from inkstone.storage import file_sha256, fingerprint, write_manifest


def curate(settings: CorpusSettings, inputs: list[Path], output: Path, progress: Progress) -> dict[str, object]:
    """Curate `inputs` (files and folders) into the empty directory `output`; returns the figures of the report.

    Raises InputError where an input is missing or no document is left.
    """
    started = time.perf_counter()
    files = find_files(inputs)
    report = Report()
    drafts = output / "drafts"
    drafts.mkdir()
    with Audit(Shards(output / "audit", audits.SCHEMA)) as audit:
        found = passes.read(settings, files, drafts / "read.arrow", report, audit, progress)
        draft = passes.open_draft(drafts / "read.arrow")
        equal = find_duplicates(found, settings.dedup.model_copy(update={"near": False}))
        alive = passes.drop_duplicates("equal_documents", settings, draft, equal, report, audit)
        found = passes.drop_lines(settings, draft, alive, found, drafts / "lines.arrow", report, audit)
        draft = passes.open_draft(drafts / "lines.arrow")
        alike = find_duplicates(found, settings.dedup)
        alive = passes.drop_duplicates("duplicates", settings, draft, alike, report, audit)
        if not alive.any():
            raise InputError(_nothing_left(report, audit))
        passes.write(settings, draft, alive, output, report)
    shutil.rmtree(drafts)
    _check_accounts(report, audit)
    result = report.as_json(audit, time.perf_counter() - started)
    (output / "report.json").write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    write_manifest(output, {"kind": "corpus", "content": _content(output), "splits": result["splits"]})
    progress.note(_summary(report, audit), documents=report.documents_kept, removed=audit.removed("document"))
    return _key_results(result)


def _check_accounts(report: Report, audit: Audit) -> None:
    """Every document that was read is in the corpus or in the audit."""
    removed = audit.removed("document")
    if report.documents_read != report.documents_kept + removed:
        raise InkstoneError(
            f"corpus: {report.documents_read} documents were read, but {report.documents_kept} kept and {removed} "
            "audited; this is a defect of Inkstone, please report it."
        )


def _nothing_left(report: Report, audit: Audit) -> list[str]:
    """Why the corpus is empty and which settings decide it."""
    broken = audit.removed("record")
    if not report.documents_read:
        first = "; ".join(str(record["detail"]) for record in audit.records[:3])
        return [
            f"corpus: no document could be read; {broken} records are unreadable: {first or 'the files are empty'}."
        ]
    problems = [f"corpus: none of the {report.documents_read} documents is left ({broken} records were unreadable)."]
    for (rule, lang), count in audit.documents.most_common(5):
        problems.append(f"  {rule} removed {count} documents in {lang}: to relax it set {key_of(rule, lang)}.")
    return problems


def _content(output: Path) -> str:
    """Names the documents themselves, whatever the report says about time."""
    shards = sorted([*output.glob("train/*.parquet"), *output.glob("heldout/*.parquet")])
    return fingerprint({shard.relative_to(output).as_posix(): file_sha256(shard) for shard in shards})


def _summary(report: Report, audit: Audit) -> str:
    removed, lines, records = (audit.removed(level) for level in ("document", "line", "record"))
    return (
        f"kept {report.documents_kept} of {report.documents_read} documents; removed {removed} documents and "
        f"{lines} lines, {records} records were unreadable (see audit/ and report.json)"
    )


def _key_results(result: dict[str, object]) -> dict[str, object]:
    names = ("documents_in", "documents_out", "characters_in", "characters_out", "splits", "langs", "throughput")
    return {name: result[name] for name in names}
