"""The tokenizer every other room uses: text to ids and back, exactly.

    tokenizer = Tokenizer.load(Path("runs/primer/tokenizer"))
    ids = tokenizer.encode("砚台 inkstone 2024\n")      # never a control token, whatever the text says
    assert tokenizer.decode(ids) == "砚台 inkstone 2024\n"

It wraps the Rust `tokenizers` library around a plain `tokenizer.json`, so the same directory opens in transformers.
Control tokens enter only by name, through `token_id`; that is how a user who types "<|im_end|>" stays a user.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import tokenizers

from inkstone.errors import InputError
from inkstone.storage import fingerprint, reading, write_json
from inkstone.tokenizer.bpe.dropout import WordMerger
from inkstone.tokenizer.bpe.lookup import Encoder
from inkstone.tokenizer.foreign.model_file import model_content
from inkstone.tokenizer.foreign.prefix import take_prefix
from inkstone.tokenizer.foreign.sentencepiece import Spec, ids_of
from inkstone.tokenizer.foreign.source import ROLES, read_source

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
CONTROL_TOKENS = (BOS, EOS, PAD, "<|im_start|>", "<|im_end|>", *(f"<|reserved_{number}|>" for number in range(11)))
_BATCH_TEXTS = 4096


class Tokenizer:
    """A `tokenizers.Tokenizer` together with the names of its begin, end and padding tokens, as far as it has them."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        bos: str | None = BOS,
        eos: str | None = EOS,
        pad: str | None = PAD,
    ) -> None:
        """`backend` is taken over: it no longer recognises special tokens in text, nor puts a dummy prefix itself."""
        spec: Spec = json.loads(backend.to_str())
        backend.encode_special_tokens = True
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self._prefix = take_prefix(backend, spec)
        self._special = dict(zip(ROLES, (bos, eos, pad), strict=True))
        # What an embedding needs, also for foreign vocabularies with gaps.
        self.vocab_size = max(ids_of(spec).values()) + 1
        self.bos_id, self.eos_id, self.pad_id = (
            None if name is None else self.token_id(name) for name in (bos, eos, pad)
        )
        self.byte_level = '"ByteLevel"' in json.dumps(spec["decoder"])
        unknown = spec["model"].get("unk_token")
        self.unknown_id = None if unknown is None else backend.token_to_id(unknown)
        added = backend.get_added_tokens_decoder()
        self.control_ids = frozenset(number for number, token in added.items() if token.special)
        self.fingerprint = _fingerprint(spec, self._special)

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Open a tokenizer directory (ours, or a Hugging Face one), a `.model`, a `tokenizer.json` or a `.gguf`.

        Raises InputError when there is none, or when it is of a kind that cannot be opened with its exact ids.
        """
        source = read_source(path)
        with reading(path, "a tokenizer"):
            backend = tokenizers.Tokenizer.from_str(json.dumps(source.spec, ensure_ascii=False))
            tokenizer = cls(backend, *(source.roles[role] for role in ROLES))
            tokenizer._refuse_typed_control(path)
        return tokenizer

    def spec(self) -> Spec:
        """The tokenizer as the JSON of a `tokenizer.json`, its dummy prefix included."""
        return dict(json.loads(self._backend.to_str())) | (self._prefix.parts if self._prefix else {})

    @cached_property
    def model_file(self) -> bytes | None:
        """A SentencePiece `.model` with the same ids on every text without "▁"; None where there is none."""
        return model_content(self.spec(), self._special)

    def respecified(self, backend: tokenizers.Tokenizer) -> "Tokenizer":
        """Another tokenizer with this one's begin, end and padding tokens."""
        return Tokenizer(backend, *(self._special[role] for role in ROLES))

    def vocabulary(self) -> dict[str, int]:
        """Every token's name and id."""
        return dict(self._backend.get_vocab(with_added_tokens=True))

    def save(self, directory: Path, with_model: bool = True) -> None:
        """Write the two files that `load` and transformers' AutoTokenizer read.

        `with_model`: and a SentencePiece `tokenizer.model` with the same ids, where there is one.
        """
        directory.mkdir(parents=True, exist_ok=True)
        content = self.model_file
        if content is not None and with_model:
            (directory / "tokenizer.model").write_bytes(content)
        write_json(directory / "tokenizer.json", self.spec(), indent=2)
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{role: name for role, name in self._special.items() if name is not None},
            "add_bos_token": False,
            "add_eos_token": False,
            # llama.cpp's converter reads this one; without it a space would go before every text
            **({} if content is None else {"add_prefix_space": self.has_prefix}),
            "clean_up_tokenization_spaces": False,
            "model_max_length": 1_000_000_000,
        }
        write_json(directory / "tokenizer_config.json", config, indent=2)

    @property
    def start_ids(self) -> list[int]:
        """What a prompt begins with: [bos], or nothing where the vocabulary has no such token."""
        return [] if self.bos_id is None else [self.bos_id]

    @property
    def end_ids(self) -> list[int]:
        """What ends a text: [eos], or nothing where the vocabulary has no such token."""
        return [] if self.eos_id is None else [self.eos_id]

    @property
    def first_id(self) -> int:
        """What a document begins with: bos, or else eos, as models without a begin token are trained."""
        return self._one_of("begin", self.start_ids + self.end_ids)

    @property
    def last_id(self) -> int:
        """What a document ends with."""
        return self._one_of("end", self.end_ids)

    @property
    def fill_id(self) -> int:
        """An id for positions that count for nothing."""
        return 0 if self.pad_id is None else self.pad_id

    def encode(self, text: str, continued: bool = False) -> list[int]:
        """Ids of `text`, nothing added; any control token written in it is ordinary text.

        Some vocabularies put a space before the first word of a text, so that it looks like any other word. A text that
        is `continued` goes on where another one stopped and gets none; for other vocabularies it makes no difference.
        """
        return self.encode_batch([text], continued)[0]

    def encode_batch(self, texts: Sequence[str], continued: bool = False) -> list[list[int]]:
        """Ids of every text, in order; uses all cores for many texts."""
        ids: list[list[int]] = []
        for start in range(0, len(texts), _BATCH_TEXTS):
            chunk = list(texts[start : start + _BATCH_TEXTS])
            try:
                if self._prefix is not None:
                    chunk = self._prefix.put(chunk, continued)
                encodings = self._backend.encode_batch_fast(chunk, add_special_tokens=False)
            except (TypeError, AttributeError, UnicodeEncodeError):
                _refuse_broken_text(texts[start : start + _BATCH_TEXTS], start)
                raise
            ids.extend(encoding.ids for encoding in encodings)
        return ids

    @property
    def has_prefix(self) -> bool:
        """Whether something is put before the first word of a text."""
        return self._prefix is not None

    @cached_property
    def encoder(self) -> Encoder | None:
        """A fast encoder with the ids of a `continued` text; None where this kind of tokenizer has none."""
        return Encoder.of(self._backend)

    @cached_property
    def _word_merger(self) -> WordMerger:
        return WordMerger(self._backend)

    def require_dropout(self) -> None:
        """Raises InputError where BPE-dropout has no meaning for this kind of tokenizer."""
        if self.encoder is None:
            _ = self._word_merger

    def encode_flat(
        self,
        texts: Sequence[str],
        dropout: float = 0.0,
        draws: np.random.Generator | None = None,
        continued: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts, int32, one after the other, and where each text's end: the ids of `encode_batch`, faster.

        `dropout` passes over merges by chance, as `draws` decides (BPE-dropout).
        """
        encoder = self.encoder
        if encoder is None and not dropout:
            encoded = self.encode_batch(texts, continued)
            ends = np.cumsum(np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded)))
            return np.fromiter(chain.from_iterable(encoded), dtype=np.int32), ends
        try:
            put = self._prefix.put(texts, continued) if self._prefix else texts
            return (encoder or self._word_merger).encode(put, dropout, draws)
        except UnicodeEncodeError:
            _refuse_broken_text(texts, 0)
            raise

    def decode(self, ids: Sequence[int], skip_control: bool = False, continued: bool = False) -> str:
        """The text of `ids`; control tokens appear by name unless `skip_control`.

        The space that `encode` put before a text is taken off again, unless the ids were `continued`.
        """
        plain = [int(token) for token in ids]
        if plain and not 0 <= min(plain) <= max(plain) < self.vocab_size:
            raise InputError(f"id {max(plain)} is outside the tokenizer's vocabulary of {self.vocab_size} tokens.")
        text = str(self._backend.decode(plain, skip_special_tokens=skip_control))
        return text if self._prefix is None or continued else self._prefix.take_off(text)

    def has_token(self, name: str) -> bool:
        """Whether `token_id` knows the name."""
        return self._backend.token_to_id(name) is not None

    def token_id(self, name: str) -> int:
        """Id of a token by its exact name. Raises InputError where there is none."""
        found = self._backend.token_to_id(name)
        if found is None:
            raise InputError(f'the tokenizer has no token "{name}".')
        return int(found)

    def token_name(self, token: int) -> str:
        """Name of a token as the vocabulary spells it, e.g. `<0x0A>` for the byte 10."""
        name = self._backend.id_to_token(token)
        if name is None:
            raise InputError(f"id {token} is outside the tokenizer's vocabulary of {self.vocab_size} tokens.")
        return str(name)

    def _one_of(self, what: str, ids: list[int]) -> int:
        if not ids:
            raise InputError(f"the tokenizer names no {what} token: name one in its tokenizer_config.json.")
        return ids[0]

    def _refuse_typed_control(self, path: Path) -> None:
        """A last look at a foreign vocabulary: its control tokens, typed, must be text."""
        names = [self.token_name(number) for number in sorted(self.control_ids)]
        for continued in (False, True):
            for name, ids in zip(names, self.encode_batch(names, continued), strict=True):
                if not self.control_ids.isdisjoint(ids):
                    raise InputError(f'{path}: a user who types "{name}" would write a control token; it is refused.')


def _fingerprint(content: Spec, special: dict[str, str | None]) -> str:
    """Hash of what decides the ids, so that a newer library that writes more fields keeps the fingerprint."""
    model = content["model"]
    added = [[token["id"], token["content"], token["special"]] for token in content["added_tokens"]]
    return fingerprint(
        {
            "vocab": sorted(model["vocab"].items(), key=lambda item: item[1])
            if isinstance(model["vocab"], dict)
            else model["vocab"],
            "merges": model.get("merges"),
            "added": added,
            "special": special,
            "pipeline": [content[part] for part in ("normalizer", "pre_tokenizer", "decoder")],
        }
    )


def _refuse_broken_text(texts: Iterable[object], start: int) -> None:
    """Name the first text that is not valid Unicode; returns when all are fine."""
    for number, text in enumerate(texts, start=start):
        if not isinstance(text, str):
            raise InputError(f"text {number} is a {type(text).__name__}, not a string.")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"text {number} has a lone surrogate (\\u{ord(text[error.start]):04x}) at character {error.start}: "
                "it is not valid Unicode and has no UTF-8 form."
            ) from error
