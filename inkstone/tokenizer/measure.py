"""How well a tokenizer compresses each language, and whether it gives the text back.

Tokens per character compares vocabularies on one text; bytes per token compares languages; the byte-fallback share says
how much of a language is spelled in raw bytes because its characters have no token.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from inkstone.tokenizer.tokenizer import Tokenizer
from inkstone.tokenizer.train import BYTE_TOKENS


@dataclass
class Compression:
    """Sums over the measured documents of one language."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0
    tokens: int = 0
    byte_tokens: int = 0
    round_trip_failures: int = 0

    def figures(self) -> dict[str, float]:
        """The sums and their ratios, as a JSON-able dict."""
        return {
            **asdict(self),
            "tokens_per_character": round(self.tokens / max(self.characters, 1), 4),
            "bytes_per_token": round(self.bytes / max(self.tokens, 1), 4),
            "byte_fallback_share": round(self.byte_tokens / max(self.tokens, 1), 6),
        }


def measure(tokenizer: Tokenizer, batches: Iterable[tuple[list[str], list[str]]]) -> dict[str, dict[str, float]]:
    """Figures per language and for "all"; `batches` gives (texts, their languages)."""
    bytes_ids = _byte_ids(tokenizer)
    languages: dict[str, Compression] = {}
    for texts, langs in batches:
        for text, lang, ids in zip(texts, langs, tokenizer.encode_batch(texts), strict=True):
            entry = languages.setdefault(lang, Compression())
            entry.documents += 1
            entry.characters += len(text)
            entry.bytes += len(text.encode("utf-8"))
            entry.tokens += len(ids)
            entry.byte_tokens += sum(1 for token in ids if token in bytes_ids)
            entry.round_trip_failures += tokenizer.decode(ids) != text
    everything = Compression()
    for entry in languages.values():
        for name, value in asdict(entry).items():
            setattr(everything, name, getattr(everything, name) + value)
    return {**{lang: languages[lang].figures() for lang in sorted(languages)}, "all": everything.figures()}


def _byte_ids(tokenizer: Tokenizer) -> frozenset[int]:
    return frozenset(tokenizer.token_id(name) for name in BYTE_TOKENS)
