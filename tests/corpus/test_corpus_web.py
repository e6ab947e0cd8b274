"""Web pages: archives are read record by record, pages are recognised and reduced to what an editor would keep."""

import gzip
import io
import json
import re
import tracemalloc
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

pytest.importorskip("trafilatura")
warcio = pytest.importorskip("warcio")

from warcio.statusandheaders import StatusAndHeaders  # noqa: E402
from warcio.warcwriter import WARCWriter  # noqa: E402

from inkstone.corpus.read.encoding import Reading  # noqa: E402
from inkstone.corpus.read.files import find_files  # noqa: E402
from inkstone.corpus.read.readers import Batch, read_batches  # noqa: E402
from inkstone.corpus.read.web import decode_page, main_text, pages, with_page  # noqa: E402

PAGES = Path(__file__).parents[2].parent / "shared/data/raw/html_pages.jsonl.gz"
HTML = "<!DOCTYPE html><html><head><title>河</title></head><body><nav>首页</nav><article>{}</article></body></html>"
STORY = "<p>" + "我们在河边住了三年，每天早晨都能听见船夫唱歌。" * 6 + "</p>"


def read(path: Path) -> Batch:
    (batch,) = list(read_batches(find_files([path]), ["text"], 32))
    return batch


def warc(path: Path, *records: tuple[str, str, bytes, str]) -> bytes:
    with path.open("wb") as stream:
        writer = WARCWriter(stream, gzip=path.suffix == ".gz")
        writer.write_record(writer.create_warcinfo_record("x.warc", {"software": "test"}))
        for kind, status, body, content in records:
            http = StatusAndHeaders(status, [("Content-Type", content)], protocol="HTTP/1.1")
            headers = http if kind == "response" else None
            uri = f"http://example.com/{len(body)}"
            writer.write_record(writer.create_warc_record(uri, kind, io.BytesIO(body), http_headers=headers))
    return path.read_bytes()


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_pages_of_an_archive_are_documents_and_the_rest_is_counted(tmp_path: Path, name: str) -> None:
    page = HTML.format(STORY)
    warc(
        tmp_path / name,
        ("response", "200 OK", page.encode("gb18030"), "text/html; charset=gb2312"),
        ("response", "404 Not Found", b"no", "text/html"),
        ("request", "", b"GET / HTTP/1.1\r\n\r\n", "text/plain"),
        ("response", "200 OK", b"\x89PNG", "image/png"),
        ("response", "200 OK", page.encode(), "text/html"),
    )
    batch = read(tmp_path / name)
    assert batch.texts == [page, page]
    assert [record.rule for record in batch.broken] == ["http_status", "not_text"]
    assert json.loads(batch.metas[0])["url"].startswith("http://example.com/")


def test_wet_archives_hold_text(tmp_path: Path) -> None:
    warc(tmp_path / "a.wet.gz", ("conversion", "", "河水东流".encode(), "text/plain"))
    assert read(tmp_path / "a.wet.gz").texts == ["河水东流"]


def test_records_before_the_damage_in_an_archive_are_read(tmp_path: Path) -> None:
    body = HTML.format(STORY).encode()
    data = warc(tmp_path / "a.warc.gz", *[("response", "200 OK", body, "text/html")] * 20)
    (tmp_path / "a.warc.gz").write_bytes(data[: len(data) // 2])
    batch = read(tmp_path / "a.warc.gz")
    assert 3 < len(batch.texts) < 20
    assert [record.rule for record in batch.broken] == ["damaged_file"]
    (tmp_path / "b.warc").write_bytes(b"this is no archive\n" * 9)
    assert read(tmp_path / "b.warc").broken[-1].rule == "damaged_file"


def test_pages_are_recognised_and_markdown_is_not_one() -> None:
    texts = [HTML.format(STORY), "\n<!-- hello -->\n<html lang='zh'>", "<HEAD><title>a</title>"]
    texts += ["<div align=center>\n# README", "小于号 <html> 在正文里", "# 如何写 <html>", ""]
    assert pages(pa.array(texts, pa.string())) == [0, 1, 2]


def test_an_html_file_is_read_in_the_encoding_it_declares(tmp_path: Path) -> None:
    page = HTML.format(STORY).replace("<head>", '<head><meta charset="gbk">')
    (tmp_path / "a.html").write_bytes(page.encode("gbk"))
    assert read(tmp_path / "a.html").texts == [page]


@pytest.mark.parametrize("declared", ["undefined", "no-such-encoding", "idna", "base64", "gb\0k"])
def test_a_page_that_declares_nonsense_is_read_by_what_is_plausible(declared: str) -> None:
    page = HTML.format(STORY)
    for encoding in ("utf-8", "gb18030", "utf-16"):
        assert decode_page(page.encode(encoding), declared, Reading(1 << 20)) == page
    assert decode_page("é".encode("latin-1"), declared, Reading(1 << 20)) is None


def test_a_declaration_that_fits_every_byte_does_not_win_over_plausible_text() -> None:
    page = HTML.format(STORY)
    assert decode_page(page.encode("gb18030"), "iso-8859-1", reading := Reading(1 << 20)) == page
    assert reading.found == {"gb18030": 1}
    french = "<html><body>L’été, déjà vu à Besançon.</body></html>"
    assert decode_page(french.encode("cp1252"), "windows-1252", reading) == french


def test_a_page_cut_off_inside_a_character_is_read_with_a_mark() -> None:
    page = HTML.format(STORY * 20).encode() + "河".encode()[:2]
    text = decode_page(page, None, reading := Reading(1 << 20))
    assert text is not None and text.endswith("</html>\ufffd") and reading.found == {"utf-8 with losses": 1}


def test_an_archive_with_an_endless_header_or_page_costs_no_memory(tmp_path: Path) -> None:
    body = HTML.format(STORY).encode()
    first = warc(tmp_path / "a.warc", ("response", "200 OK", body, "text/html"))
    with gzip.open(tmp_path / "a.warc.gz", "wb", compresslevel=1) as stream:
        stream.write(first + b"WARC/1.0\r\nWARC-Type: ")
        for _ in range(200):
            stream.write(b"x" * 1_000_000)
    (tmp_path / "a.warc").unlink()
    tracemalloc.start()
    batch = read(tmp_path / "a.warc.gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert batch.texts == [body.decode()] and [record.rule for record in batch.broken] == ["damaged_file"]
    assert peak < 30e6
    warc(
        tmp_path / "b.warc",
        ("response", "200 OK", b"x" * 3_000_000, "text/html"),
        ("response", "200 OK", body, "text/html"),
    )
    (batch,) = list(read_batches(find_files([tmp_path / "b.warc"]), ["text"], 1))
    assert batch.texts == [body.decode()] and [record.rule for record in batch.broken] == ["too_large"]


DAMAGED = [
    (b"HTTP/1.1 200 OK", b"HTTP/1.1"),
    (b"HTTP/1.1 200 OK", b"\xff\xfe"),
    (b"WARC-Type: response", b"WARC-Type"),
    (b"Content-Length: ", b"Content-Length: x"),
    (b"Content-Type: text/html", b"Content-Type"),
]


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_record_does_not_end_the_run(tmp_path: Path, damage: tuple[bytes, bytes]) -> None:
    data = warc(tmp_path / "a.warc", ("response", "200 OK", HTML.format(STORY).encode(), "text/html"))
    (tmp_path / "a.warc").write_bytes(data.replace(*damage))
    (tmp_path / "b.txt").write_text("good", encoding="utf-8")
    (batch,) = list(read_batches(find_files([tmp_path]), ["text"], 32))
    assert "good" in batch.texts and len(batch.texts) + len(batch.broken) >= 1


def test_a_page_without_text_gives_none() -> None:
    assert main_text("<html><body></body></html>")[0] == ""
    assert main_text("<html")[0] == ""
    assert with_page('{"url": "u"}', "题") == '{"url": "u", "title": "题"}'


@pytest.mark.skipif(not PAGES.exists(), reason="the collection of web pages is not here")
def test_main_text_agrees_with_what_a_browser_reader_extracts() -> None:
    import lxml.html

    def words(text: str) -> Counter[str]:
        return Counter(re.findall(r"[\u4e00-\u9fff]|\w+", text))

    figures = []
    with gzip.open(PAGES, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            expected = words(lxml.html.fromstring(row["expected_html"]).text_content())
            found = words(main_text(row["html"])[0])
            both = (expected & found).total()
            figures.append((both / max(found.total(), 1), both / max(expected.total(), 1)))
    precision, recall = (sum(column) / len(figures) for column in zip(*figures, strict=True))
    assert precision > 0.93 and recall > 0.90
