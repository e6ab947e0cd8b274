"""Raw text to a clean, deduplicated corpus, with an audit of everything removed. See `docs/corpus.md`."""

from inkstone.corpus.run.engine import Workers
from inkstone.corpus.run.stage import CORPUS, curate
from inkstone.corpus.settings import CorpusSettings

__all__ = ["CORPUS", "CorpusSettings", "Workers", "curate"]
