"""The tokenizer every other room uses: text to ids and back, exactly.

    tokenizer = Tokenizer.load(Path("runs/primer/tokenizer"))
    ids = tokenizer.encode("砚台 inkstone 2024\n")      # never a control token, whatever the text says
    assert tokenizer.decode(ids) == "砚台 inkstone 2024\n"

It wraps the Rust `tokenizers` library around a plain `tokenizer.json`, so the same directory opens in transformers.
Control tokens enter only by name, through `token_id`; that is how a user who types "<|im_end|>" stays a user.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers

from inkstone.errors import InkstoneError, InputError
from inkstone.storage import fingerprint

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
CONTROL_TOKENS = (BOS, EOS, PAD, "<|im_start|>", "<|im_end|>", *(f"<|reserved_{number}|>" for number in range(11)))
_BATCH_TEXTS = 4096
_ROLES = ("bos_token", "eos_token", "pad_token")


class Tokenizer:
    """A `tokenizers.Tokenizer` together with the names of its begin, end and padding tokens."""

    def __init__(self, backend: tokenizers.Tokenizer, bos: str = BOS, eos: str = EOS, pad: str = PAD) -> None:
        """`backend` is taken over: its special tokens are no longer recognised in text."""
        backend.encode_special_tokens = True
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self._special = dict(zip(_ROLES, (bos, eos, pad), strict=True))
        self.vocab_size = _vocab_size(backend)
        self.bos_id, self.eos_id, self.pad_id = (self.token_id(name) for name in (bos, eos, pad))
        self.fingerprint = _fingerprint(backend, self._special)

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """Open a directory that holds `tokenizer.json` and `tokenizer_config.json`.

        Raises InputError when a file is missing or does not name the begin, end and padding tokens.
        """
        missing = [name for name in ("tokenizer.json", "tokenizer_config.json") if not (directory / name).is_file()]
        if missing:
            raise InputError(
                f"{directory} has no {' and no '.join(missing)}: give a directory written by the tokenizer stage, "
                "or a Hugging Face directory with these files."
            )
        try:
            backend = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        except Exception as error:  # the library raises bare Exception for every kind of damage
            raise InkstoneError(f"{directory / 'tokenizer.json'} cannot be read as a tokenizer: {error}") from error
        return cls(backend, *_read_special(directory / "tokenizer_config.json"))

    def save(self, directory: Path) -> None:
        """Write the two files that `load` and transformers' AutoTokenizer read."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "tokenizer.json").write_text(self._backend.to_str(pretty=True) + "\n", encoding="utf-8")
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **self._special,
            "add_bos_token": False,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 1_000_000_000,
        }
        text = json.dumps(config, ensure_ascii=False, indent=2)
        (directory / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")

    def encode(self, text: str, continued: bool = False) -> list[int]:
        """Ids of `text`, nothing added; any control token written in it is ordinary text."""
        return self.encode_batch([text], continued)[0]

    def encode_batch(self, texts: Sequence[str], continued: bool = False) -> list[list[int]]:
        """Ids of every text, in order; uses all cores for many texts."""
        ids: list[list[int]] = []
        for start in range(0, len(texts), _BATCH_TEXTS):
            chunk = list(texts[start : start + _BATCH_TEXTS])
            try:
                encodings = self._backend.encode_batch_fast(chunk, add_special_tokens=False)
            except TypeError:
                _refuse_broken_text(chunk, start)
                raise
            ids.extend(encoding.ids for encoding in encodings)
        return ids

    def decode(self, ids: Sequence[int], skip_control: bool = False) -> str:
        """The text of `ids`; control tokens appear by name unless `skip_control`."""
        plain = [int(token) for token in ids]
        if plain and not 0 <= min(plain) <= max(plain) < self.vocab_size:
            raise InputError(f"id {max(plain)} is outside the tokenizer's vocabulary of {self.vocab_size} tokens.")
        return str(self._backend.decode(plain, skip_special_tokens=skip_control))

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


def _vocab_size(backend: tokenizers.Tokenizer) -> int:
    """One more than the largest id: what an embedding needs, also for foreign vocabularies with gaps."""
    return max(backend.get_vocab(with_added_tokens=True).values()) + 1


def _fingerprint(backend: tokenizers.Tokenizer, special: dict[str, str]) -> str:
    """Hash of what decides the ids, so that a newer library that writes more fields keeps the fingerprint."""
    content = json.loads(backend.to_str())
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


def _read_special(path: Path) -> list[str]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}).") from error
    names: list[str] = []
    problems: list[str] = []
    for role in _ROLES:
        value = config.get(role) if isinstance(config, dict) else None
        name = value.get("content") if isinstance(value, dict) else value
        if isinstance(name, str):
            names.append(name)
        else:
            problems.append(f'{path} names no {role}: add "{role}": "..." with a token of tokenizer.json.')
    if problems:
        raise InputError(problems)
    return names


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
