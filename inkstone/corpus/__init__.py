"""Raw text to a clean, deduplicated corpus, with an audit of everything removed. See `docs/corpus.md`."""

from inkstone.corpus.engine import Workers
from inkstone.corpus.settings import CorpusSettings
from inkstone.corpus.stage import curate

__all__ = ["CorpusSettings", "Workers", "curate"]
