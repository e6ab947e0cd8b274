"""Encodings: real Chinese is recognised in each of them, and what is undecided is refused, never read as mojibake."""

import codecs
import io
import json
import random
from collections import Counter
from pathlib import Path

import pytest
import zstandard

from inkstone.corpus import CorpusSettings, curate
from inkstone.corpus.read.encoding import SAMPLE, choose_encoding
from inkstone.corpus.read.files import find_files
from inkstone.corpus.read.readers import Batch, read_batches
from inkstone.errors import InputError
from inkstone.progress import Silent

DATA = Path(__file__).parents[2].parent / "shared/data/pretrain"
SIMPLIFIED = "我们在河边住了三年，每天早晨都能听见船夫唱歌。后来桥修好了，船夫就不再来了，只剩下水声。"
TRADITIONAL = "我們在河邊住了三年，每天早晨都能聽見船夫唱歌。後來橋修好了，船夫就不再來了，只剩下水聲。"
LATIN = "It’s “déjà vu”, she said — naïve, as in the café of M. Besançon; 5 µm at 20 °C."
KOREAN = (
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 나는 오늘 아침에 일찍 일어나서 산책을 했다."
)
JAPANESE = (
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。ニャーニャー泣いていた事だけは記憶している。"
)
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему."
ENCODED = [
    (SIMPLIFIED, "gb18030", "gb18030"),
    (SIMPLIFIED, "gbk", "gb18030"),
    (TRADITIONAL, "gbk", "gb18030"),
    (TRADITIONAL, "big5", "big5hkscs"),
    (TRADITIONAL, "cp950", "big5hkscs"),
    (SIMPLIFIED, "utf-16-le", "utf-16-le"),
    (SIMPLIFIED, "utf-16-be", "utf-16-be"),
    (SIMPLIFIED, "utf-16", "utf-16"),
    (TRADITIONAL, "utf-32", "utf-32"),
    (LATIN, "utf-16-le", "utf-16-le"),
    (LATIN, "utf-8", "utf-8"),
    (KOREAN, "utf-8", "utf-8"),
    (SIMPLIFIED, "utf-8-sig", "utf-8"),
]
REFUSED = [(LATIN, "cp1252"), (LATIN, "mac_roman"), (KOREAN, "euc_kr"), (JAPANESE, "shift_jis"), (JAPANESE, "euc_jp"),
           (RUSSIAN, "cp1251"), (RUSSIAN, "koi8-r"), (RUSSIAN, "cp866")]  # fmt: skip


def read(path: Path, encoding: str = "auto", max_mb: float = 64) -> Batch:
    (batch,) = list(read_batches(find_files([path]), ["text"], max_mb, encoding))
    return batch


@pytest.mark.parametrize(("text", "encoding", "name"), ENCODED)
def test_text_and_tables_are_read_in_the_encoding_they_are_in(
    text: str, encoding: str, name: str, tmp_path: Path
) -> None:
    table = f'text,url\n"{text}",u1\n"{text[::-1]}",u2\n'
    page = f"<html><body><p>{text}</p></body></html>"
    for number, (suffix, content) in enumerate([("txt", text), ("md", text), ("html", page), ("csv", table)]):
        (tmp_path / f"{number}.{suffix}").write_bytes(content.encode(encoding))
    batch = read(tmp_path)
    assert batch.texts == [text, text, page, text, text[::-1]] and not batch.broken
    assert batch.encodings == {name: 4}


@pytest.mark.parametrize(("text", "encoding"), REFUSED)
def test_what_is_undecided_is_refused_and_an_explicit_name_reads_it(text: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode(encoding, "ignore"))
    (tmp_path / "b.html").write_bytes(f"<html><body>{text}".encode(encoding, "ignore"))
    batch = read(tmp_path)
    assert [record.rule for record in batch.broken] == ["encoding"] * 2 and batch.encodings == {"undecided": 2}
    assert all("set [corpus] encoding" in record.detail for record in batch.broken)
    again = read(tmp_path, encoding)
    assert again.texts[0] == text.encode(encoding, "ignore").decode(encoding) and len(again.texts) == 2


def test_rows_of_a_table_that_is_undecided_are_read_where_they_are_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text\nplain\n" + LATIN.replace(",", "").encode("cp1252") + b"\n")
    batch = read(tmp_path)
    assert batch.texts == ["plain"] and [record.rule for record in batch.broken] == ["encoding"]


def test_bytes_beyond_the_sample_that_do_not_fit_are_a_record(tmp_path: Path) -> None:
    long = (SIMPLIFIED + "\n") * 2_000
    (tmp_path / "a.txt").write_bytes(long.encode("gb18030") + b"\xff\xff")
    (tmp_path / "b.csv").write_bytes(("text\n" + long).encode("gb18030") + b"\xff\xff\n")
    assert len(long.encode("gb18030")) > SAMPLE
    batch = Batch()
    for part in read_batches(find_files([tmp_path]), ["text"], 64):
        batch.texts += part.texts
        batch.broken += part.broken
    assert [record.rule for record in batch.broken] == ["encoding"] * 2
    assert set(batch.texts) == {SIMPLIFIED} and all("GB18030" in record.detail for record in batch.broken)


def test_json_is_utf8_or_marked_and_never_guessed(tmp_path: Path) -> None:
    row = json.dumps({"text": SIMPLIFIED}, ensure_ascii=False)
    (tmp_path / "a.jsonl").write_bytes((row + "\n" + row).encode("utf-16"))
    (tmp_path / "b.json").write_bytes(codecs.BOM_UTF16_BE + f"[{row}]".encode("utf-16-be"))
    (tmp_path / "c.jsonl").write_bytes(row.encode("gb18030"))
    batch = read(tmp_path)
    assert batch.texts == [SIMPLIFIED] * 3 and [record.id for record in batch.broken] == ["c:c.jsonl:1"]
    assert read(tmp_path / "c.jsonl", "gb18030").texts == [SIMPLIFIED]


def test_archives_are_read_page_by_page(tmp_path: Path) -> None:
    pytest.importorskip("warcio")
    from warcio.warcwriter import WARCWriter

    with (tmp_path / "a.wet").open("wb") as stream:
        writer = WARCWriter(stream, gzip=False)
        for text, encoding in ((SIMPLIFIED, "gbk"), (TRADITIONAL, "big5"), (LATIN, "cp1252"), (SIMPLIFIED, "utf-8")):
            body = io.BytesIO(text.encode(encoding))
            writer.write_record(writer.create_warc_record("http://example.com", "conversion", body))
    batch = read(tmp_path / "a.wet")
    assert batch.texts == [SIMPLIFIED, TRADITIONAL, SIMPLIFIED]
    assert batch.encodings == {"gb18030": 1, "big5hkscs": 1, "undecided": 1, "utf-8": 1}


def test_what_was_chosen_is_in_the_report_and_told(tmp_path: Path) -> None:
    told: list[str] = []

    class Ear(Silent):
        def note(self, message: str, **fields: object) -> None:
            told.append(message)

    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in/a.txt").write_bytes(SIMPLIFIED.encode("gbk"))
    (tmp_path / "in/b.txt").write_bytes(("A different story of the river. " * 5).encode())
    (tmp_path / "in/c.txt").write_bytes(LATIN.encode("cp1252"))
    curate(CorpusSettings(), [tmp_path / "in"], tmp_path / "out", Ear())
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["counts"]["encoding"] == {"gb18030": 1, "undecided": 1, "utf-8": 1}
    assert report["unreadable"]["count"] == 1 and "1 as gb18030" in told[-1]


def test_an_unknown_encoding_is_refused_by_the_settings() -> None:
    assert CorpusSettings(encoding="GBK").encoding == "gbk"
    with pytest.raises((InputError, ValueError), match="no encoding"):
        CorpusSettings(encoding="klingon")


@pytest.mark.skipif(not DATA.exists(), reason="the shared collections are not here")
@pytest.mark.parametrize(
    ("file", "encodings"),
    [("zh/wiki_cmrc2018", ("gb18030", "gbk", "utf-16-le", "utf-16-be")),
     ("zh/wiki_drcd_traditional", ("big5", "gbk", "utf-16-le", "utf-16-be")), ("en/c4_demo", ("cp1252",))],
)  # fmt: skip
def test_samples_of_real_text_are_recognised_or_refused_but_never_read_wrongly(
    file: str, encodings: tuple[str, ...]
) -> None:
    with zstandard.open(DATA / f"{file}.jsonl.zst", "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines][:300]
    rng, found = random.Random(1), Counter[str]()
    for encoding in encodings:
        for length in (32, 400, 4_000):
            for text in texts:
                start = rng.randrange(max(1, len(text) - length))
                try:
                    data = text[start : start + length].encode(encoding)
                except UnicodeEncodeError:
                    continue
                name = choose_encoding(data, whole=True)
                expected = {"gbk": "gb18030", "big5": "big5hkscs"}.get(encoding, encoding)
                if not data.isascii():
                    found["right" if name == expected else "wrong" if name else "refused"] += 1
    assert not found["wrong"]
    assert found["right"] == 0 if encodings == ("cp1252",) else found["right"] > 0.97 * found.total()
