"""Web pages: the records of WARC and WET archives, and the main text of an HTML page (trafilatura, extra `web`).

A WARC response becomes a document with its HTML, a WET conversion one with its text; the address and date go to
`meta`. What is not a page (an image, an error answer) is a `Broken` record. Pages inside any other format are
recognised by how they begin, so a JSONL of crawled pages needs no special treatment.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from inkstone.compressed import DAMAGE
from inkstone.corpus.read.encoding import UNDECIDED, Reading
from inkstone.errors import InputError

# A page begins with its declaration or outermost tags; Markdown that opens with a <div> is not a page.
_PAGE = r"(?is)^[\s\x{feff}]*(?:<\?xml[^>]*>\s*)?(?:<!--.{0,400}?-->\s*)*<(?:!doctype\s+html|html|head|body)[\s>]"
_MAYBE = r"^[\s\x{feff}]*<"
_HEAD = 1024
_HEADER_BYTES = 1_000_000
_WHOLE = 1000  # a page of UTF-8 may have lost one in so many characters; marks say where
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?\s*([A-Za-z0-9_-]+)", re.IGNORECASE)
Record = dict[str, object] | tuple[str, str]
MISSING = "reading web pages needs more packages: pip install 'inkstone[web]'"


def warc_records(stream: BinaryIO, reading: Reading) -> Iterator[Record]:
    """Rows of an archive's pages; for what is not a page the rule and the reason. EOFError where it is damaged."""
    try:
        from warcio.archiveiterator import ArchiveIterator
        from warcio.exceptions import ArchiveLoadFailed
    except ImportError as error:
        raise InputError(MISSING) from error
    watched = _Watched(stream)
    try:
        for row in _records(ArchiveIterator(watched), watched, reading):
            if watched.error:
                break  # this record is cut off
            yield row
    except ArchiveLoadFailed as error:
        raise EOFError(str(error)) from error
    if watched.error:
        raise EOFError(str(watched.error)) from watched.error


class _Watched:
    """A stream that remembers damage: warcio takes it for the end of the archive."""

    def __init__(self, stream: BinaryIO) -> None:
        self._read = getattr(stream, "read1", stream.read)  # read1 gives what there is before the damage
        self.error: Exception | None = None
        self.left = _HEADER_BYTES  # that the header of a record may still take

    def read(self, size: int = -1) -> bytes:
        try:
            data = bytes(self._read(size))
            self.left -= len(data)
            if self.left < 0:
                raise EOFError(f"the header of a record has no end in {_HEADER_BYTES / 1e6:.0f} MB")
            return data
        except (*DAMAGE, OSError) as error:
            self.error = error
            return b""


def _records(archive: Iterable[Any], watched: _Watched, reading: Reading) -> Iterator[Record]:
    for record in archive:
        watched.left = 1 << 62
        if row := _row(record, reading):
            yield row
        while record.raw_stream.read(1 << 16):  # pass over what is left, so that only a header comes next
            pass
        watched.left = _HEADER_BYTES


def _row(record: Any, reading: Reading) -> Record | None:
    """A page as a row, or why a record is none; None for requests and notes about the crawl."""
    if record.rec_type not in ("response", "conversion"):
        return None
    url = record.rec_headers.get_header("WARC-Target-URI") or ""
    meta = {"url": url, "date": record.rec_headers.get_header("WARC-Date") or ""}
    kind, charset = "text/plain", None
    if record.rec_type == "response" and record.http_headers is not None:
        status = record.http_headers.get_statuscode() or "without a status"
        kind = (record.http_headers.get_header("Content-Type") or "text/html").lower()
        charset = kind.partition("charset=")[2].strip(" \"';") or None
        if not status.startswith("2"):
            return "http_status", f"{url}: the server answered {status}"
    if not kind.startswith(("text/", "application/xhtml")):
        return "not_text", f"{url}: {kind}"
    data = record.content_stream().read(reading.limit + 1)
    if len(data) > reading.limit:
        return "too_large", f"{url}: a page of more than {reading.limit / 1e6:.1f} MB, more than max_document_mb allows"
    text = decode_page(data, charset, reading)
    return ("encoding", f"{url}: {UNDECIDED}") if text is None else {"text": text, **meta}


def decode_page(data: bytes, charset: str | None, reading: Reading) -> str | None:
    """Text of a page: by the encoding that is set, or ("auto") the one that fits, else the one that it declares."""
    declared = charset or ((named := _CHARSET.search(data[:2048])) and named.group(1).decode())
    auto = reading.encoding == "auto"
    for name in filter(None, (reading.encoding_of(data), declared if auto else None)):
        try:
            text = data.decode("gb18030" if name.lower() in ("gb2312", "gbk") else name)
        except (ValueError, LookupError):  # also UnicodeError, which the codec "undefined" raises
            continue
        reading.found[name.lower()] += 1
        return text.removeprefix("\ufeff")
    text = data.decode("utf-8", "replace")
    few = auto and text.count("\ufffd") * _WHOLE <= len(text)  # e.g. a page that was cut off
    reading.found["utf-8 with losses" if few else "undecided"] += 1
    return text if few else None


def pages(texts: pa.StringArray) -> list[int]:
    """Which texts are HTML pages."""
    maybe = pc.indices_nonzero(pc.match_substring_regex(texts, _MAYBE))
    heads = pc.utf8_slice_codeunits(texts.take(maybe), 0, _HEAD)
    return [int(row) for row in maybe.filter(pc.match_substring_regex(heads, _PAGE)).to_pylist()]


def extractor_installed() -> bool:
    try:
        import trafilatura.settings  # noqa: F401
    except ImportError:
        return False
    return True


def main_text(html: str) -> tuple[str, str]:
    """The main text of a page as plain lines, and its title; both empty where there is none."""
    from trafilatura import bare_extraction

    try:
        found = bare_extraction(
            html, include_comments=False, include_tables=True, favor_recall=True, with_metadata=True
        )
    except (ValueError, RecursionError, TypeError, AssertionError):  # a page so broken that it has no tree
        return "", ""
    if found is None:
        return "", ""
    content = found if isinstance(found, dict) else found.as_dict()
    return (content.get("text") or content.get("raw_text") or "").strip(), (content.get("title") or "").strip()


def with_page(meta: str, title: str) -> str:
    """A document's meta with the title of its page."""
    row = json.loads(meta)
    return json.dumps({**row, "title": title}, ensure_ascii=False) if title and "title" not in row else meta
