"""How well a tokenizer compresses each language, and whether it gives the text back.

Tokens per character compares vocabularies on one text (Baichuan's "compress rate" is this figure on Chinese text);
bytes per token compares languages; fertility is tokens per word, where a Han character is a word. The byte-fallback
share says how many tokens spell a character out in bytes because it has no token of its own, and coverage how many
characters are spared that.
"""

import codecs
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from inkstone.tokenizer.tokenizer import Tokenizer

_HAN = "\u3005\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORDS = re.compile(rf"[{_HAN}]|(?:(?![{_HAN}])\w)+(?:['’](?:(?![{_HAN}])\w)+)*")
_BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")


@dataclass
class Compression:
    """Sums over the measured documents of one language."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0
    words: int = 0
    tokens: int = 0
    byte_tokens: int = 0
    uncovered_characters: int = 0
    round_trip_failures: int = 0

    def figures(self) -> dict[str, float]:
        """The sums and their ratios, as a JSON-able dict."""
        return {
            **vars(self),
            "tokens_per_character": round(self.tokens / max(self.characters, 1), 4),
            "characters_per_token": round(self.characters / max(self.tokens, 1), 4),
            "bytes_per_token": round(self.bytes / max(self.tokens, 1), 4),
            "fertility": round(self.tokens / max(self.words, 1), 4),
            "byte_fallback_share": round(self.byte_tokens / max(self.tokens, 1), 6),
            "coverage": round(1 - self.uncovered_characters / max(self.characters, 1), 6),
        }


def measure(tokenizer: Tokenizer, batches: Iterable[tuple[list[str], list[str]]]) -> dict[str, dict[str, float]]:
    """Figures per language and for "all"; `batches` gives (texts, their languages)."""
    in_bytes, begun = spelled_in_bytes(tokenizer)
    languages: dict[str, Compression] = {}
    for texts, langs in batches:
        for text, lang, ids in zip(texts, langs, tokenizer.encode_batch(texts), strict=True):
            entry = languages.setdefault(lang, Compression())
            numbers = np.array(ids, dtype=np.int64)
            entry.documents += 1
            entry.characters += len(text)
            entry.bytes += len(text.encode("utf-8"))
            entry.words += sum(1 for _ in _WORDS.finditer(text))
            entry.tokens += len(ids)
            entry.byte_tokens += int(in_bytes[numbers].sum())
            entry.uncovered_characters += int(begun[numbers].sum())
            entry.round_trip_failures += tokenizer.decode(ids) != text
    everything = Compression()
    for entry in languages.values():
        for name, value in vars(entry).items():
            setattr(everything, name, getattr(everything, name) + value)
    return {**{lang: languages[lang].figures() for lang in sorted(languages)}, "all": everything.figures()}


def spelled_in_bytes(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """For every id: whether it is less than a character, and whether such a character begins with it.

    That is a byte token, the unknown token, or a token of a byte-level vocabulary that is not whole UTF-8.
    """
    in_bytes = np.zeros(tokenizer.vocab_size, dtype=bool)
    begun = np.zeros(tokenizer.vocab_size, dtype=bool)
    for name, number in tokenizer.vocabulary().items():
        byte = _BYTE_TOKEN.fullmatch(name) if not tokenizer.byte_level else None
        spelled = bytes([int(byte[1], 16)]) if byte else _spelled(name, tokenizer.byte_level)
        unfinished, damaged = _ends_inside(spelled), not _is_text(spelled)
        in_bytes[number] = bool(byte) or damaged
        begun[number] = unfinished or (bool(byte) and spelled < b"\x80")
    if tokenizer.unknown_id is not None:
        in_bytes[tokenizer.unknown_id] = begun[tokenizer.unknown_id] = True
    return in_bytes, begun


def _letters_for_bytes() -> dict[str, int]:
    """GPT-2's alphabet: every byte as one printable letter."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [value for value in range(256) if value not in printable]
    return {chr(value): value for value in printable} | {chr(256 + place): value for place, value in enumerate(others)}


BYTE_OF = _letters_for_bytes()


def _spelled(name: str, byte_level: bool) -> bytes:
    if byte_level and all(letter in BYTE_OF for letter in name):
        return bytes(BYTE_OF[letter] for letter in name)
    return name.encode("utf-8")


def _ends_inside(spelled: bytes) -> bool:
    """Whether the bytes end inside a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    decoder.decode(spelled)
    return bool(decoder.getstate()[0])


def _is_text(spelled: bytes) -> bool:
    try:
        spelled.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
