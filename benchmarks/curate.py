"""Curation speed: ours beside datatrove on the same documents, part by part and end to end, and who finds more copies.

    python benchmarks/curate.py --data DATA [--mb 16]                     # all four parts, some minutes (datatrove's)
    python benchmarks/curate.py --data DATA --mb 60 --parts rules,end     # a bigger share of the text

rules       Gopher's repetition and quality rules (ours: with repair, private data, web lines; and our rules alone)
minhash     documents that nearly repeat another one: 4 stages of datatrove; ours with the defaults of the recipe
sentences   exact repeated sentences: 3 stages of datatrove (it compares runs of three); ours single sentences
end         all of it, one after the other, from JSONL to Parquet; ours is `curate`, audit and report included

Data-Juicer joins in rules and minhash where `--data-juicer` names a Python that has it (data_juicer_parts.py).
All read the same JSONL and write the kept documents. Every measurement is a process of its own with one worker, timed
after imports and after datatrove has loaded its dictionaries. datatrove knows one language per pipeline, so it runs
once for Chinese (spaCy with jieba, thresholds of FineWeb-2) and once for English (spaCy). CPU seconds are the fair
column on a busy machine. Peak memory is what one process and its children hold beside shared pages.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measured import cpu_seconds, measure
from mixed_corpus import Sample, mixed, write
from near_duplicates import KINDS, best_similarity, find_duplicates, recall, shingle_sets, tokens_of

OURS = ("inkstone", "inkstone, rules alone")
PARTS = ("rules", "minhash", "sentences", "end")
LANGUAGES = ("zh", "en")
FILES = 4  # per language
STOP_WORDS_ZH = list("的年在月是和日了於为有被人中他與後也而由")


# --- ours --------------------------------------------------------------------------------------------------------


def ours(who: str, part: str, corpus: Path, output: Path) -> Callable[[], None]:
    """Imports what the part needs, builds the tables of characters with one word, and returns its work."""
    import inkstone.corpus.run.stage  # noqa: F401
    from inkstone.corpus.judge.resources import Models
    from inkstone.corpus.read.readers import Batch
    from inkstone.corpus.run.one_batch import clean
    from inkstone.corpus.settings import CorpusSettings

    clean(Batch(["1"], ["warm"], ["warm"], ["{}"]), CorpusSettings(), Models())
    settings = CorpusSettings(inputs=[str(corpus)])
    work = {"rules": _our_rules, "minhash": _our_minhash, "sentences": _our_sentences, "end": _our_end}[part]
    work = _our_rules_alone if who == OURS[1] else work
    return lambda: work(settings, corpus, output)


def _batches(settings, corpus):  # type: ignore[no-untyped-def]
    import pyarrow as pa

    from inkstone.corpus.read.files import find_files
    from inkstone.corpus.read.readers import read_batches

    for batch in read_batches(find_files([corpus]), settings.text_fields, settings.max_document_mb):
        yield batch, pa.array(batch.texts, pa.string())


def _rows(batch, texts, keep):  # type: ignore[no-untyped-def]
    import pyarrow as pa

    from inkstone.corpus.run.parquet_shards import DOCUMENT

    columns = {
        "id": batch.ids,
        "text": texts,
        "source": batch.sources,
        "lang": ["zh"] * len(texts),
        "meta": batch.metas,
    }
    rows = pa.RecordBatch.from_pydict({**columns, "quality": pa.nulls(len(texts), pa.float32())}, DOCUMENT)
    return rows.filter(pa.array(keep))


def _our_rules(settings, corpus, output):  # type: ignore[no-untyped-def]
    import pyarrow as pa

    from inkstone.corpus.judge.resources import Prepared, PrepareTask, open_models, prepare_models
    from inkstone.corpus.read.files import find_files
    from inkstone.corpus.run.one_batch import clean
    from inkstone.corpus.run.parquet_shards import DOCUMENT, Shards

    prepare_models(PrepareTask(tuple(find_files([corpus])), settings), output)
    models = open_models(Prepared(output, "benchmark"))
    with Shards(output / "kept", DOCUMENT) as shards:
        for batch, _ in _batches(settings, corpus):
            cleaned = clean(batch, settings, models)
            shards.add(cleaned.rows.filter(pa.array(cleaned.keep)))


def _our_minhash(settings, corpus, output):  # type: ignore[no-untyped-def]
    from inkstone.corpus.judge.kernel import flatten, tokenize
    from inkstone.corpus.repeats.dedup import Signatures, signatures
    from inkstone.corpus.run.parquet_shards import DOCUMENT, Shards

    parts = [signatures(tokenize(flatten(texts)), settings.dedup) for _, texts in _batches(settings, corpus)]
    found = Signatures(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("exact", "minhash", "has_shingles")))
    keep = np.ones(len(found.exact), bool)
    keep[find_duplicates(found, settings.dedup).rank] = False
    start = 0
    with Shards(output / "kept", DOCUMENT) as shards:
        for batch, texts in _batches(settings, corpus):
            shards.add(_rows(batch, texts, keep[start : start + len(texts)]))
            start += len(texts)


def _our_sentences(settings, corpus, output):  # type: ignore[no-untyped-def]
    import pyarrow as pa

    from inkstone.corpus.judge.kernel import flatten, tokenize
    from inkstone.corpus.repeats.spans import DROP, ROW, decide, find_spans, limits, remove
    from inkstone.corpus.run.parquet_shards import DOCUMENT, Shards
    from inkstone.corpus.settings import LineRules, SentenceRules

    lines, sentences = LineRules(max_line_documents=0, max_menu_documents=0), SentenceRules(max_documents=1)
    rows, start = [np.zeros(0, ROW)], 0
    for _, texts in _batches(settings, corpus):
        flat = flatten(texts)
        rows.append(find_spans(flat, tokenize(flat), lines, sentences).rows(flat, start))
        start += len(texts)
    every = np.concatenate(rows)
    drops = decide(every, np.ones(len(every), bool), limits(lines, sentences))
    start = 0
    with Shards(output / "kept", DOCUMENT) as shards:
        for batch, texts in _batches(settings, corpus):
            low, high = np.searchsorted(drops["rank"], (start, start + len(texts)))
            here = drops[low:high]
            touched, place = np.unique(here["rank"] - start, return_inverse=True)
            if len(touched):
                changed = remove(texts.take(pa.array(touched)), here.astype(DROP), place, lines, sentences)
                new = texts.to_pylist()
                for row, (text, _) in zip(touched.tolist(), changed, strict=True):
                    new[row] = text
                texts = pa.array(new, pa.string())
            shards.add(_rows(batch, texts, np.ones(len(texts), bool)))
            start += len(texts)


def _our_end(settings, corpus, output):  # type: ignore[no-untyped-def]
    from inkstone.corpus.run.stage import curate
    from inkstone.progress import Silent
    from inkstone.tasks import Workers

    output.mkdir(exist_ok=True)
    curate(settings, [corpus], output, Silent(), workers=Workers(1))


def _our_rules_alone(settings, corpus, output):  # type: ignore[no-untyped-def]
    from inkstone.corpus.judge.kernel import flatten, tokenize
    from inkstone.corpus.judge.measures import measure as measures
    from inkstone.corpus.judge.rules import judge
    from inkstone.corpus.run.parquet_shards import DOCUMENT, Shards

    with Shards(output / "kept", DOCUMENT) as shards:
        for batch, texts in _batches(settings, corpus):
            flat = flatten(texts)
            tokens = tokenize(flat)
            verdicts = judge(settings, measures(flat, tokens), tokens)
            shards.add(_rows(batch, texts, [not rule for rule in verdicts.rule]))


def our_ids(output: Path) -> set[str]:
    """Ids of the documents we kept, as they stand in the input."""
    import pyarrow.dataset as ds

    folders = [f for f in (output / "kept", output / "train", output / "heldout") if f.exists()]
    metas = [json.loads(row) for f in folders for row in ds.dataset(f).to_table(["meta"])["meta"].to_pylist()]
    return {meta["id"] for meta in metas}


# --- datatrove ---------------------------------------------------------------------------------------------------


def theirs(part: str, corpus: Path, output: Path) -> Callable[[], None]:
    """Imports datatrove, loads jieba's dictionary and returns the work of the part, for both languages."""
    import jieba
    import spacy
    from datatrove.utils.logging import logger
    from datatrove.utils.typeshelper import Languages

    logger.remove()
    jieba.initialize()
    spacy.blank("en")
    names = {"zh": Languages.mandarin_chinese, "en": Languages.english}
    work = {"rules": _their_rules, "minhash": _their_minhash, "sentences": _their_sentences, "end": _their_end}[part]

    def run() -> None:
        for lang in LANGUAGES:
            work(str(corpus), str(output / lang), names[lang], f"{lang}-*.jsonl")

    return run


def _go(pipeline, tasks=FILES):  # type: ignore[no-untyped-def]
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.utils.word_tokenizers import load_word_tokenizer

    # It copies its steps, and a word cutter that another step has used holds a module, which cannot be copied.
    load_word_tokenizer.cache_clear()
    with tempfile.TemporaryDirectory() as logs:
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=logs).run()
    load_word_tokenizer.cache_clear()


def _reader(folder, pattern):  # type: ignore[no-untyped-def]
    from datatrove.pipeline.readers import JsonlReader, ParquetReader

    return JsonlReader(folder, glob_pattern=pattern) if pattern.endswith("jsonl") else ParquetReader(folder)


def _writer(folder):  # type: ignore[no-untyped-def]
    from datatrove.pipeline.writers import ParquetWriter

    return ParquetWriter(folder, compression="zstd")


def _their_rules(source, output, language, pattern):  # type: ignore[no-untyped-def]
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
    from datatrove.utils.typeshelper import Languages

    if language == Languages.mandarin_chinese:  # FineWeb-2's thresholds for cmn_Hani
        repetition = GopherRepetitionFilter(
            language=language, dup_line_frac=0.287, top_n_grams=((2, 0.256), (3, 0.201), (4, 0.171)),
            dup_n_grams=((5, 0.198), (6, 0.182), (7, 0.167), (8, 0.154), (9, 0.14), (10, 0.127)),
        )  # fmt: skip
        quality = GopherQualityFilter(
            language=language, min_avg_word_length=1, max_avg_word_length=5, max_non_alpha_words_ratio=0.735,
            stop_words=STOP_WORDS_ZH, min_stop_words=2,
        )  # fmt: skip
    else:
        repetition, quality = GopherRepetitionFilter(language=language), GopherQualityFilter(language=language)
    _go([_reader(source, pattern), repetition, quality, _writer(f"{output}/kept")])


def _their_minhash(source, output, language, pattern):  # type: ignore[no-untyped-def]
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature

    config = MinhashConfig()
    signatures, buckets, remove = (f"{output}/{name}" for name in ("signatures", "buckets", "remove"))
    _go([_reader(source, pattern), MinhashDedupSignature(signatures, config=config, language=language)])
    _go([MinhashDedupBuckets(signatures, buckets, config=config)], config.num_buckets)
    _go([MinhashDedupCluster(buckets, remove, config=config)], 1)
    _go([_reader(source, pattern), MinhashDedupFilter(remove), _writer(f"{output}/kept")])


def _their_sentences(source, output, language, pattern):  # type: ignore[no-untyped-def]
    from datatrove.pipeline.dedup import SentenceDedupFilter, SentenceDedupSignature, SentenceFindDedups
    from datatrove.pipeline.dedup.sentence_dedup import SentDedupConfig

    # Their default removes documents of fewer than 50 words or 3 sentences, which is a rule of its own.
    config = SentDedupConfig(min_doc_words=1, min_num_sentences=1)
    signatures, found = f"{output}/signatures", f"{output}/found"
    _go([_reader(source, pattern), SentenceDedupSignature(signatures, config=config, language=language)])
    _go([SentenceFindDedups(signatures, found, config=config)], 1)
    filter_ = SentenceDedupFilter(found, config=config, language=language)
    _go([_reader(source, pattern), filter_, _writer(f"{output}/kept")])


def _their_end(source, output, language, pattern):  # type: ignore[no-untyped-def]
    _their_rules(source, f"{output}/1", language, pattern)
    _their_minhash(f"{output}/1/kept", f"{output}/2", language, ".parquet")
    _their_sentences(f"{output}/2/kept", output, language, ".parquet")


def their_ids(output: Path) -> set[str]:
    """Ids of the documents datatrove kept."""
    import pyarrow.dataset as ds

    folders = [output / lang / "kept" for lang in LANGUAGES if (output / lang / "kept").exists()]
    return {row for f in folders for row in ds.dataset(f).to_table(["id"])["id"].to_pylist()}


def juicer_ids(output: Path) -> set[str]:
    """Ids of the documents Data-Juicer kept."""
    import pyarrow.parquet as pq

    return set(pq.read_table(output / "kept" / "part.parquet", columns=["id"])["id"].to_pylist())


# --- measuring ---------------------------------------------------------------------------------------------------


def child(who: str, part: str, corpus: Path, output: Path) -> None:
    """Runs in a process of its own; prints wall and CPU seconds as JSON."""
    work = theirs(part, corpus, output) if who == "datatrove" else ours(who, part, corpus, output)
    started, used = time.perf_counter(), cpu_seconds()
    work()
    print(json.dumps({"wall": time.perf_counter() - started, "cpu": cpu_seconds() - used}))


def score(samples: list[Sample], kept: set[str]) -> tuple[str, str]:
    """Recall per kind, and the share of removed documents that no kept one resembles."""
    gone = np.array([sample.id not in kept for sample in samples])
    counts = recall(samples, gone)
    best = best_similarity(shingle_sets(tokens_of(samples)), np.flatnonzero(gone), np.flatnonzero(~gone))
    cells = [f"{counts[kind][0] / counts[kind][1]:.3f}" if kind in counts else "-" for kind in KINDS]
    return " | ".join(cells), f"{(best < 0.5).mean():.2%}"


def _participants(part: str, juicer: str | None) -> list[tuple[str, list[str], Callable[[Path], set[str]]]]:
    """Who does a part: name, the command without its last arguments, and how to read which documents stay."""
    here = [sys.executable, __file__, "--child"]
    found = [(who, [*here, who], our_ids) for who in OURS[: 2 if part == "rules" else 1]]
    found.append(("datatrove", [*here, "datatrove"], their_ids))
    if juicer and part in ("rules", "minhash"):
        script = Path(__file__).with_name("data_juicer_parts.py")
        found.append(("Data-Juicer", [juicer, str(script)], juicer_ids))
    return found


def _share(row: dict[str, float], own: dict[str, float], name: str) -> str:
    return f"{name}: 1/{row['cpu'] / own['cpu']:.1f} of the CPU, 1/{row['wall'] / own['wall']:.1f} of the time"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with zh/ and en/ of .jsonl.zst")
    parser.add_argument("--mb", type=float, default=16, help="text to work on, half Chinese, half English")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--data-juicer", help="a Python that has Data-Juicer (see data_juicer_parts.py)")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        return child(asked.child[0], asked.child[1], Path(asked.child[2]), Path(asked.child[3]))
    samples = mixed(asked.data, asked.mb)
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch) / "corpus"
        megabytes = write(samples, corpus, FILES) / 1e6
        load = " ".join(f"{value:.1f}" for value in os.getloadavg())
        print(
            f"{len(samples)} documents, {megabytes:.1f} MB; {platform.machine()}, {os.cpu_count()} cores, load {load}"
        )
        print("| part | who | wall s | CPU s | MB per CPU s | peak GB | kept | inkstone needs |")
        print("|---|---|---|---|---|---|---|---|")
        found = {}
        for part in asked.parts.split(","):
            ours: dict[str, dict[str, float]] = {}
            for who, python, ids in _participants(part, asked.data_juicer):
                output = Path(scratch) / f"{part}-{who}"
                output.mkdir()
                row = measure([*python, part, str(corpus), str(output)])
                kept = ids(output)
                if part == "minhash":
                    found[who] = score(samples, kept)
                if who in OURS:
                    ours[who] = row
                shares = [_share(row, own, name) for name, own in ours.items() if who not in OURS]
                print(f"| {part} | {who} | {row['wall']:.1f} | {row['cpu']:.1f} | {megabytes / row['cpu']:.2f} "
                      f"| {row['peak']:.2f} | {len(kept)} | {'; '.join(shares)} |", flush=True)  # fmt: skip
    if found:
        print("\nInjected copies found, and removed documents that resemble none that stays (true Jaccard < 0.5)\n")
        print("| | " + " | ".join(" ".join(kind) for kind in KINDS) + " | wrong |")
        print("|---" * (len(KINDS) + 2) + "|")
        for who, (cells, wrong) in found.items():
            print(f"| {who} | {cells} | {wrong} |")


if __name__ == "__main__":
    main()
