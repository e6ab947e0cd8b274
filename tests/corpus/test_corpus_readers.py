"""Readers: every format gives the same documents, everything unreadable gives a record, nothing stops a run."""

import bz2
import gzip
import json
import lzma
import os
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from inkstone.corpus.read import readers
from inkstone.corpus.read.files import find_files, url_states
from inkstone.corpus.read.readers import Batch, read_batches
from inkstone.errors import InkstoneError, InputError

TEXTS = ["白日依山尽，\n黄河入海流。", 'He said: "ink, \\ and stone".', "mixed 中文 and English\n\nnew paragraph"]
ROWS = [{"text": text, "source": "shelf", "url": f"u{n}"} for n, text in enumerate(TEXTS, 1)]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def read(*paths: Path, fields: tuple[str, ...] = ("text",), max_mb: float = 64) -> Batch:
    """All batches in one."""
    whole = Batch()
    for batch in read_batches(find_files(paths), list(fields), max_mb):
        for name in ("ids", "texts", "sources", "metas", "broken"):
            getattr(whole, name).extend(getattr(batch, name))
    return whole


def csv_bytes() -> bytes:
    quoted = [",".join('"' + value.replace('"', '""') + '"' for value in row.values()) for row in ROWS]
    return "\n".join(["text,source,url", *quoted, ""]).encode()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", JSONL),
        ("a.jsonl", b"\xef\xbb\xbf" + JSONL.replace(b"\n", b"\r\n\r\n")),
        ("a.ndjson", JSONL.rstrip()),
        ("a.json", json.dumps(ROWS).encode()),
        ("a.json", JSONL),
        ("a.csv", csv_bytes()),
        ("a.csv", b"\xef\xbb\xbf" + csv_bytes()),
        ("a.jsonl.gz", gzip.compress(JSONL)),
        ("a.jsonl.xz", lzma.compress(JSONL)),
        ("a.jsonl.zst", zstandard.compress(JSONL)),
        ("a.csv.gz", gzip.compress(csv_bytes())),
    ],
)
def test_every_format_gives_the_same_documents(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    batch = read(tmp_path / name)
    assert batch.texts == TEXTS
    assert batch.sources == ["shelf"] * 3
    assert [json.loads(meta) for meta in batch.metas] == [{"url": f"u{n}"} for n in (1, 2, 3)]
    assert not batch.broken


def test_parquet_gives_the_same_documents(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    batch = read(tmp_path / "a.parquet")
    assert (batch.texts, batch.ids) == (TEXTS, [f"shelf:a.parquet:{n}" for n in (1, 2, 3)])


def test_ids_name_source_file_and_row(tmp_path: Path) -> None:
    (tmp_path / "part.jsonl").write_bytes(b'\n{"text": "a"}\n{"text": "b", "source": "s"}\n')
    (tmp_path / "novel.txt").write_text("text", encoding="utf-8")
    assert read(tmp_path).ids == ["novel:novel.txt:1", "part:part.jsonl:2", "s:part.jsonl:3"]


def test_text_files_may_be_compressed_and_carry_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(b"\xef\xbb\xbf# ink\n")
    (tmp_path / "b.txt.zst").write_bytes(zstandard.compress("砚\n".encode()))
    assert read(tmp_path).texts == ["# ink\n", "砚\n"]


def test_files_of_one_name_are_told_apart_by_their_folder(tmp_path: Path) -> None:
    for folder in ("x/one", "x/two", "y/two"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.txt").write_text(folder, encoding="utf-8")
    ids = read(tmp_path / "y", tmp_path / "x", tmp_path / "x" / "one" / "a.txt").ids
    assert ids == ["a:one/a.txt:1", "a:x/two/a.txt:1", "a:y/two/a.txt:1"]


@pytest.mark.parametrize(
    ("name", "data", "rule", "says"),
    [
        ("a.txt", "水火".encode("gb18030"), "encoding", ["a.txt:1", "byte 2 is 0xbb", "set [corpus] encoding"]),
        ("a.txt", b"abc\xff\xfe\xfd", "encoding", ["byte 3 is 0xff"]),
        ("a.txt", "It’s “déjà vu”, naïve café — really.".encode("cp1252"), "encoding", ["plausible"]),
        ("a.html", "It’s “déjà vu”, naïve café — really.".encode("cp1252"), "encoding", ["plausible"]),
        ("a.txt", b" \n", "no_text", ["a.txt:1"]),
        ("a.txt", b"", "no_text", ["a.txt:1"]),
        ("a.jsonl", b'{"text": "a"', "json", ["a.jsonl:1"]),
        ("a.jsonl", b"[" * 100_000, "json", ["a.jsonl:1"]),
        ("a.jsonl", b'["text"]', "json", ["a list, not an object"]),
        ("a.jsonl", b'{"text": "\xb0\xa1\xb0\xa2"}', "encoding", ["byte 10"]),
        ("a.jsonl", b'{"text": "\\ud800"}', "encoding", ["surrogate"]),
        ("a.jsonl", b'{"text": ""}', "no_text", ["field text"]),
        ("a.jsonl", b'{"text": null, "body": 1}', "no_text", ["fields: text, body", "text_fields"]),
        ("a.jsonl", b'{"text": ["a"]}', "no_text", ["field text"]),
        ("a.json", b"[1]", "json", ["not an object"]),
        ("a.json", b"\xff", "encoding", ["byte 0"]),
        ("a.csv", b"text,url\na,b,c\n", "csv", ["a.csv:1", "3 cells under 2 columns"]),
        ("a.csv", b"text,url\n\xff,b\n", "encoding", ["a.csv:1"]),
        ("a.csv", b'text\n"abc', "csv", ["not CSV"]),
        ("a.csv", b"title\nabc\n", "no_text", ["fields: title"]),
        ("a.jsonl.gz", gzip.compress(JSONL)[:30], "damaged_file", ["damaged after row"]),
        ("a.jsonl.gz", b"no gzip", "damaged_file", ["damaged after row 0"]),
        ("a.jsonl.xz", b"no xz", "damaged_file", ["damaged after row 0"]),
        ("a.jsonl.zst", b"no zstd", "damaged_file", ["damaged after row 0"]),
        ("a.parquet", b"no parquet", "damaged_file", ["damaged after row 0"]),
    ],
)
def test_what_cannot_be_read_becomes_a_record(
    tmp_path: Path, name: str, data: bytes, rule: str, says: list[str]
) -> None:
    (tmp_path / name).write_bytes(data)
    (tmp_path / "good.txt").write_text("good", encoding="utf-8")
    batch = read(tmp_path)
    assert "good" in batch.texts
    assert [record.rule for record in batch.broken] == [rule]
    for words in says:
        assert words in batch.broken[0].detail


def test_rows_around_a_broken_one_are_read(tmp_path: Path) -> None:
    lines = JSONL.split(b"\n")
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([lines[0], b"{", b"\xff", lines[1], b"{}", lines[2]]))
    batch = read(tmp_path)
    assert batch.texts == TEXTS
    assert batch.ids == ["shelf:a.jsonl:1", "shelf:a.jsonl:4", "shelf:a.jsonl:6"]
    assert [(record.id, record.rule) for record in batch.broken] == [
        ("a:a.jsonl:2", "json"),
        ("a:a.jsonl:3", "encoding"),
        ("a:a.jsonl:5", "no_text"),
    ]


def test_rows_before_the_damage_in_a_compressed_file_are_read(tmp_path: Path) -> None:
    rows = b"".join(json.dumps({"text": os.urandom(40).hex()}).encode() + b"\n" for _ in range(2000))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(rows)[:-2000])
    batch = read(tmp_path)
    assert len(batch.texts) > 1000
    assert [record.rule for record in batch.broken][-1] == "damaged_file"


@pytest.mark.parametrize("ending", [".gz", ".zst", ".xz", ".bz2"])
def test_a_compressed_file_that_was_cut_short_is_never_taken_for_a_whole_one(tmp_path: Path, ending: str) -> None:
    compress = {".gz": gzip, ".zst": zstandard, ".xz": lzma, ".bz2": bz2}[ending].compress
    rows = b"".join(json.dumps({"text": os.urandom(40).hex()}).encode() + b"\n" for _ in range(5000))
    data = compress(rows)
    (tmp_path / f"a.jsonl{ending}").write_bytes(data + data)  # members and frames may follow each other
    assert len(read(tmp_path).texts) == 10_000
    (tmp_path / f"a.jsonl{ending}").write_bytes(data[: len(data) // 2])
    assert read(tmp_path).broken[-1].rule == "damaged_file"


def test_a_zst_file_made_with_a_long_window_is_read(tmp_path: Path) -> None:
    window = zstandard.ZstdCompressionParameters(window_log=30)
    packed = zstandard.ZstdCompressor(compression_params=window).compressobj()
    (tmp_path / "a.txt.zst").write_bytes(packed.compress(b"ink\n" * 9) + packed.flush())
    assert read(tmp_path).texts == ["ink\n" * 9]


def test_folders_behind_links_are_read_once_and_what_is_not_read_is_counted(tmp_path: Path) -> None:
    (tmp_path / "in" / ".cache").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("in/a.txt", "in/b.docx", "in/part-0", "in/._a.txt", "in/.cache/a.txt", "elsewhere/c.txt"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    for name, target in (("there", "elsewhere"), ("again", "elsewhere"), ("loop", "in"), ("gone.txt", "nothing")):
        (tmp_path / "in" / name).symlink_to(tmp_path / target)
    others = Counter[str]()
    assert [Path(file.path).name for file in find_files([tmp_path / "in"], others)] == ["a.txt", "c.txt"]
    assert others == {".docx": 1, "": 1, "links that lead nowhere": 1}


@pytest.mark.parametrize(
    ("name", "head"),
    [("a.csv", "id;text"), ("a.csv", "id\ttext"), ("a.tsv", "id\ttext")],
)
def test_a_table_of_excel_may_have_semicolons_or_tabs_between_its_cells(tmp_path: Path, name: str, head: str) -> None:
    between = head[-5]
    (tmp_path / name).write_text(f'\ufeff{head}\r\n1{between}"one, two"\r\n', encoding="utf-8")
    batch = read(tmp_path)
    assert (batch.texts, batch.metas, batch.broken) == (["one, two"], ['{"id": "1"}'], [])


def test_texts_in_a_parquet_column_of_bytes_are_read_and_other_bytes_do_no_harm(tmp_path: Path) -> None:
    columns = {"text": [t.encode() for t in TEXTS], "image": [b"\xff\xd8"] * len(TEXTS)}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert read(tmp_path).texts == TEXTS


def test_a_field_that_is_no_text_is_named_with_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": ["a", "b"]}', encoding="utf-8")
    assert "text is a list" in read(tmp_path).broken[0].detail


def test_several_text_fields_are_joined(tmp_path: Path) -> None:
    rows = [{"title": "T", "modern": "m"}, {"modern": "only"}, {"other": "x"}]
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    batch = read(tmp_path, fields=("title", "modern"))
    assert batch.texts == ["T\n\nm", "only"]
    assert [record.rule for record in batch.broken] == ["no_text"]


def test_a_document_that_is_too_large_is_a_record(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("水" * 1000, encoding="utf-8")
    assert read(tmp_path, max_mb=0.003).texts
    assert read(tmp_path, max_mb=0.0029).broken[0].rule == "too_large"


def test_batches_are_bounded_and_span_small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BATCH_CHARACTERS", 100)
    for n in range(50):
        (tmp_path / f"{n:02}.txt").write_text("x" * 10, encoding="utf-8")
    batches = list(read_batches(find_files([tmp_path]), ["text"], 1))
    assert [len(batch.ids) for batch in batches] == [10] * 5 + [0]
    assert batches[-1].bytes_done == 500


def test_all_wrong_inputs_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.pdf").write_bytes(b"")
    (tmp_path / "a.txt").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        find_files([tmp_path / "gone.txt", tmp_path / "a.pdf", tmp_path / "empty", tmp_path / "a.txt"])
    assert len(caught.value.problems) == 3
    for name in ("gone.txt", "a.pdf", "empty"):
        assert any(str(tmp_path / name) in problem for problem in caught.value.problems)
    with pytest.raises(InputError, match="no file"):
        find_files([])


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission_is_an_error_not_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(InkstoneError, match=r"a\.txt"):
        read(tmp_path)


def test_files_are_read_through_urls_like_local_ones(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for name, data in (("raw/a.jsonl", JSONL), ("raw/b.jsonl.gz", gzip.compress(JSONL)), ("raw/sub/c.txt", b"ink")):
        memory.pipe(f"/{name}", data)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "raw/d.parquet")
    memory.pipe("/raw/d.parquet", (tmp_path / "raw/d.parquet").read_bytes())
    local = read(tmp_path / "raw")
    for url in ("memory://raw", (tmp_path / "raw").as_uri()):
        remote = read(url)  # type: ignore[arg-type]
        assert (remote.ids, remote.texts, remote.metas) == (local.ids, local.texts, local.metas)
    assert len(find_files(["memory://raw/*.jsonl*"])) == 2
    assert url_states("memory://raw/a.jsonl").keys() == {"memory:///raw/a.jsonl"}
    with pytest.raises(InputError) as caught:
        find_files(["memory://nowhere/x.jsonl", "memory://raw/*.csv", "nonsense://a/b.txt"])
    assert len(caught.value.problems) == 3


def test_a_remote_file_that_is_not_compressed_is_read_line_by_line(tmp_path: Path) -> None:
    """What s3://, hf:// and https:// have in common: a file whose `readline` takes no limit."""
    fsspec = pytest.importorskip("fsspec")
    (tmp_path / "a.jsonl").write_bytes(JSONL)

    class File(fsspec.spec.AbstractBufferedFile):  # type: ignore[misc]
        def _fetch_range(self, start: int, end: int) -> bytes:
            return (tmp_path / "a.jsonl").read_bytes()[start:end]

    class Far(fsspec.AbstractFileSystem):  # type: ignore[misc]
        protocol = "far"

        def info(self, path: str, **_: object) -> dict[str, object]:
            return {"name": path, "size": len(JSONL), "type": "file"}

        def _open(self, path: str, mode: str = "rb", **given: object) -> File:
            return File(self, path, mode, size=len(JSONL))

    fsspec.register_implementation("far", Far, clobber=True)
    assert read("far://a.jsonl").texts == TEXTS  # type: ignore[arg-type]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """A file system of an S3 server on this machine, with an empty bucket named ink."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    s3fs = pytest.importorskip("s3fs")
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {"ENDPOINT_URL": f"http://{host}:{port}", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b",
                        "DEFAULT_REGION": "us-east-1"}.items():  # fmt: skip
        monkeypatch.setenv(f"AWS_{name}", value)
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem()
    system.mkdir("ink")
    yield system
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.slow
def test_files_in_an_s3_bucket_are_read_like_local_ones(bucket: Any, tmp_path: Path) -> None:
    (tmp_path / "raw/sub").mkdir(parents=True)
    (tmp_path / "raw/a.jsonl").write_bytes(JSONL * 30_000)
    (tmp_path / "raw/b.jsonl.gz").write_bytes(gzip.compress(JSONL))
    (tmp_path / "raw/sub/c.txt").write_bytes(b"ink")
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "raw/d.parquet")
    bucket.put(str(tmp_path / "raw"), "ink/raw", recursive=True)
    local, remote = read(tmp_path / "raw"), read("s3://ink/raw")  # type: ignore[arg-type]
    assert (remote.ids, remote.texts, remote.metas) == (local.ids, local.texts, local.metas)
    assert [file.size for file in find_files(["s3://ink/raw/*.jsonl"])] == [len(JSONL) * 30_000]
    before = url_states("s3://ink/raw/b.jsonl.gz")
    bucket.pipe("ink/raw/b.jsonl.gz", gzip.compress(JSONL * 2))
    assert url_states("s3://ink/raw/b.jsonl.gz") != before
    with pytest.raises(InputError, match=r"s3://nowhere/x\.jsonl: "):
        find_files(["s3://nowhere/x.jsonl"])


def test_an_endless_line_is_a_record_and_costs_no_memory(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wb", compresslevel=1) as stream:
        stream.write(b'{"text": "first"}\n{"text": "')
        for _ in range(200):
            stream.write(b"x" * 1_000_000)
        stream.write(b'"}\n{"text": "last"}\n')
    tracemalloc.start()
    batch = read(tmp_path / "a.jsonl.gz", max_mb=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert batch.texts == ["first", "last"]
    assert [(record.id, record.rule) for record in batch.broken] == [("a:a.jsonl.gz:2", "too_large")]
    assert peak < 30e6


def bombs(folder: Path) -> None:
    """Small files that become gigabytes, or would."""
    text = b"x" * 1_000_000
    with zstandard.open(folder / "a.json.zst", "wb") as stream, gzip.open(folder / "b.json.gz", "wb", 1) as other:
        for _ in range(200):
            stream.write(text)
            other.write(text)
    with gzip.open(folder / "c.csv.gz", "wb", 1) as stream:  # its first line has no end
        for _ in range(70):
            stream.write(text)
    often = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), pa.array(["x" * 365_000]))
    pq.write_table(pa.table({"text": often}), folder / "d.parquet", compression="zstd")
    page = pa.table({"text": ["x" * 1_000_000] * 200})
    pq.write_table(page, folder / "e.parquet", compression="zstd", use_dictionary=False)


def test_a_bomb_is_a_record_and_costs_no_memory(tmp_path: Path) -> None:
    bombs(tmp_path)
    (tmp_path / "good.txt").write_text("good", encoding="utf-8")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2e6
    tracemalloc.start()
    before, texts, rules = pa.total_allocated_bytes(), 0, []
    for batch in read_batches(find_files([tmp_path]), ["text"], 2):
        texts += len(batch.texts)
        rules += [record.rule for record in batch.broken]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (texts, rules) == (20_001, ["damaged_file", "damaged_file", "csv", "damaged_file"])
    assert peak < 200e6 and pa.total_allocated_bytes() - before < 1e6


def test_times_that_python_has_none_for_are_text(tmp_path: Path) -> None:
    columns = {
        "text": pa.array(["a", "b"]),
        "ns": pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns")),
        "wait": pa.array([1_000_000_001, 5], pa.duration("ns")),
        "day": pa.array([2**30, 0], pa.date32()),
        "late": pa.array([2**60, 0], pa.timestamp("us")),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    batch = read(tmp_path / "a.parquet")
    assert batch.texts == ["a", "b"] and not batch.broken
    first = json.loads(batch.metas[0])
    assert first["ns"] == "2023-11-14 22:13:20.123456789" and "1000000001" in first["wait"].replace(".", "")
    assert first["day"].startswith("+29") or first["day"].startswith("29")
    assert json.loads(batch.metas[1])["day"] == "1970-01-01"


def test_one_bad_value_of_a_parquet_file_is_one_record(tmp_path: Path) -> None:
    text = pa.array([b"one", b"\xff\xfe", "河".encode()]).view(pa.string())
    pq.write_table(pa.table({"text": text, "n": [1, 2, 3]}), tmp_path / "a.parquet")
    (tmp_path / "b.txt").write_text("good", encoding="utf-8")
    batch = read(tmp_path)
    assert batch.texts == ["one", "河", "good"]
    assert [(record.id, record.rule) for record in batch.broken] == [("a:a.parquet:2", "encoding")]


def test_a_source_that_is_no_text_is_a_record(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text":"hello","source":"\\ud800"}\n{"text":"b"}\n')
    batch = read(tmp_path)
    assert batch.texts == ["b"] and [record.rule for record in batch.broken] == ["encoding"]
    assert batch.broken[0].id.encode("utf-8")


@pytest.mark.parametrize("suffix", [".jsonl", ".txt", ".csv", ".json", ".parquet", ".jsonl.gz"])
def test_a_link_into_a_store_of_blobs_is_read_by_its_own_name(tmp_path: Path, suffix: str) -> None:
    """How the caches of model and data hubs lie on disk."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    blob, link = tmp_path / "blobs" / "0a1b", tmp_path / "snapshot" / f"train{suffix}"
    match suffix:
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(ROWS), blob)
        case ".csv":
            blob.write_bytes(csv_bytes())
        case _:
            blob.write_bytes(gzip.compress(JSONL) if suffix.endswith(".gz") else JSONL)
    link.symlink_to(Path("..") / "blobs" / "0a1b")
    for given in (link, link.parent, link.parent / ".." / "snapshot" / link.name):
        batch = read(given)
        assert batch.texts == ([JSONL.decode()] if suffix == ".txt" else TEXTS)
        assert all(f":train{suffix}:" in id for id in batch.ids)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json", "a.parquet"])
def test_an_empty_file_is_counted(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(b"[]" if name == "a.json" else b"")
    batch = read(tmp_path / name)
    assert not batch.texts and [record.rule for record in batch.broken] == ["empty_file"]


def test_a_parquet_file_without_its_footer_is_a_record(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-30])
    assert [record.rule for record in read(tmp_path / "a.parquet").broken] == ["damaged_file"]


def test_raw_control_characters_and_nul_bytes_do_not_break_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a\tb\x00c"}\n{"text": "d\\u0000e"}\n')
    (tmp_path / "b.csv").write_bytes(b"text\nf\x00g\n")
    batch = read(tmp_path)
    assert batch.texts == ["a\tb\x00c", "d\x00e", "f\x00g"] and not batch.broken


def test_rows_with_one_id_are_documents_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"id": "7", "text": "one"}\n{"id": "7", "text": "two"}\n')
    batch = read(tmp_path / "a.jsonl")
    assert batch.ids == ["a:a.jsonl:1", "a:a.jsonl:2"] and batch.texts == ["one", "two"]
