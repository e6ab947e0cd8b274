"""Web pages: the records of WARC and WET archives, and the main text of an HTML page (trafilatura, extra `web`).

A WARC response becomes a document with its HTML, a WET conversion one with its text; the address and date go to
`meta`. What is not a page (an image, an error answer) is a `Broken` record. Pages inside any other format are
recognised by how they begin, so a JSONL of crawled pages needs no special treatment.
"""

import json
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import zstandard

from inkstone.errors import InputError

# A page begins with its declaration or outermost tags; Markdown that opens with a <div> is not a page.
_PAGE = r"(?is)^[\s\x{feff}]*(?:<\?xml[^>]*>\s*)?(?:<!--.{0,400}?-->\s*)*<(?:!doctype\s+html|html|head|body)[\s>]"
_MAYBE = r"^[\s\x{feff}]*<"
_HEAD = 1024
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?\s*([A-Za-z0-9_-]+)", re.IGNORECASE)
MISSING = "reading web pages needs more packages: pip install 'inkstone[web]'"


def warc_records(stream: BinaryIO) -> Iterator[dict[str, object] | tuple[str, str]]:
    """Rows of an archive's pages; for what is not a page the rule and the reason. EOFError where it is damaged."""
    try:
        from warcio.archiveiterator import ArchiveIterator
        from warcio.exceptions import ArchiveLoadFailed
    except ImportError as error:
        raise InputError(MISSING) from error
    watched = _Watched(stream)
    try:
        for row in _records(ArchiveIterator(watched)):
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

    def read(self, size: int = -1) -> bytes:
        try:
            return bytes(self._read(size))
        except (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
            self.error = error
            return b""


def _records(archive: Iterable[Any]) -> Iterator[dict[str, object] | tuple[str, str]]:
    for record in archive:
        if record.rec_type not in ("response", "conversion"):
            continue  # requests and notes about the crawl
        url = record.rec_headers.get_header("WARC-Target-URI") or ""
        meta = {"url": url, "date": record.rec_headers.get_header("WARC-Date") or ""}
        kind, charset = "text/plain", None
        if record.rec_type == "response" and record.http_headers is not None:
            status = record.http_headers.get_statuscode()
            kind = (record.http_headers.get_header("Content-Type") or "text/html").lower()
            charset = kind.partition("charset=")[2].strip(" \"';") or None
            if not status.startswith("2"):
                yield "http_status", f"{url}: the server answered {status}"
                continue
        if not kind.startswith(("text/", "application/xhtml")):
            yield "not_text", f"{url}: {kind}"
            continue
        yield {"text": decode_page(record.content_stream().read(), charset), **meta}


def decode_page(data: bytes, charset: str | None = None) -> str:
    """Text of a page: by the encoding it declares, else UTF-8, GB 18030, or UTF-8 with marks for what is lost."""
    declared = charset or ((found := _CHARSET.search(data[:2048])) and found.group(1).decode()) or "utf-8"
    for encoding in (declared, "utf-8", "gb18030" if declared.lower().startswith("gb") or not charset else "utf-8"):
        try:
            return data.decode("gb18030" if encoding.lower() in ("gb2312", "gbk") else encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    return data.decode("utf-8", "replace")


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
