"""Write a tokenizer as a SentencePiece `.model`, which sentencepiece and llama.cpp's converter open.

SentencePiece knows no words: it joins the two neighbours whose piece has the best score, anywhere in a text. A
`tokenizer.json` says the same when nothing cuts its text and its merges are all splits of every piece, a piece's splits
standing together. So scores are read off the order of the merges, and then the whole way back is checked: only a model
whose own pipeline is the tokenizer again is written. One character is an exception: SentencePiece reads "▁" as a space.
"""

import base64
from itertools import groupby, product
from pathlib import Path

from inkstone.errors import InputError
from inkstone.tokenizer.foreign import proto
from inkstone.tokenizer.foreign.prefix import steps_of
from inkstone.tokenizer.foreign.sentencepiece import (
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    USER_DEFINED,
    Pieces,
    Spec,
    around,
    ids_of,
    merge_parts,
    normal_pieces,
    refuse_what_differs,
    splits,
)

Merge = tuple[str, str]
_BPE = 2
_IDENTITY = "identity"


def model_content(spec: Spec, roles: dict[str, str | None]) -> bytes | None:
    """The tokenizer of this JSON as a `.model` with the same ids; None where there is none.

    `roles` names its begin, end and padding tokens.
    """
    model = spec["model"]
    odd = model.get("dropout") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    if odd or model.get("ignore_merges") or not model.get("byte_fallback") or spec["pre_tokenizer"] is not None:
        return None
    names = ids_of(spec)
    if sorted(names.values()) != list(range(len(names))):
        return None
    literal = spec["normalizer"] is None  # our own: spaces stand for themselves
    if literal and any(SPACE in name for name in names):
        return None
    marked = {name: name.replace(" ", SPACE) if literal else name for name in names}
    pairs = [(marked[left], marked[right]) for left, right in map(merge_parts, model["merges"])]
    pieces = _pieces({marked[name]: number for name, number in names.items()}, pairs, spec, roles)
    if pieces is None or not _says_the_same(pieces, pairs, spec, literal):
        return None
    return _written(pieces)


def _pieces(names: dict[str, int], pairs: list[Merge], spec: Spec, roles: dict[str, str | None]) -> Pieces | None:
    """Names in order of ids, each with its kind, and scores that fall along the merges."""
    special = {token["content"]: bool(token["special"]) for token in spec["added_tokens"]}
    unknown = spec["model"].get("unk_token") or next((name for name in reversed(special) if "reserved" in name), None)
    if unknown is None:  # SentencePiece wants a piece of that kind, also where bytes leave nothing unknown
        return None

    def kind(name: str) -> int:
        if name == unknown:
            return UNKNOWN
        if name in special:
            return CONTROL if special[name] else USER_DEFINED
        return BYTE if len(name) == 6 and name.startswith("<0x") else NORMAL

    ordered = sorted(names, key=lambda name: names[name])
    made = list(dict.fromkeys(left + right for left, right in pairs))
    place = {name: number for number, name in enumerate(dict.fromkeys(made + ordered))}
    kinds = [kind(name) for name in ordered]
    scores = [-float(place[name]) if kind == NORMAL else 0.0 for name, kind in zip(ordered, kinds, strict=True)]
    ids = [names.get(roles[role] or "", -1) for role in ("bos_token", "eos_token", "pad_token")]
    return Pieces(ordered, scores, kinds, False, False, b"", *ids)


def _says_the_same(pieces: Pieces, pairs: list[Merge], spec: Spec, literal: bool) -> bool:
    """Whether opening the model gives this tokenizer; finds out what it does with spaces on the way."""
    steps = [] if literal else steps_of(spec["normalizer"], "normalizers")
    maps = [step["precompiled_charsmap"] for step in steps if step["type"] == "Precompiled"]
    try:
        refuse_what_differs(pieces, Path("tokenizer.model"))
    except InputError:
        return False
    pieces.charsmap = base64.b64decode(maps[0]) if maps else b""
    decoder = steps_of(spec["decoder"], "decoders")
    for pieces.dummy_prefix, pieces.remove_extra_whitespaces in product((False, True), repeat=2):
        found = around(pieces)
        wanted = steps_of(found["decoder"], "decoders")[literal:]  # the first one turns "▁" into spaces
        same = literal or steps_of(found["normalizer"], "normalizers") == steps
        if same and wanted == decoder and _added(found) == _added(spec):
            return _ordered_alike(pieces, pairs)
    return False


def _ordered_alike(pieces: Pieces, pairs: list[Merge]) -> bool:
    """Whether every piece's merges are all its splits, in an order that gives the same ids."""
    known = normal_pieces(pieces)
    met = set()
    for name, group in groupby(pairs, key="".join):
        listed, wanted = list(group), splits(name, known)
        overlap = {left for left, _ in wanted} & {right for _, right in wanted}
        if name in met or (listed != wanted if overlap else sorted(listed) != sorted(wanted)):
            return False
        met.add(name)
    return not any(splits(name, known) for name in known if len(name) > 1 and name not in met)


def _added(spec: Spec) -> list[tuple[int, str, bool]]:
    return sorted((token["id"], token["content"], bool(token["special"])) for token in spec["added_tokens"])


def _written(pieces: Pieces) -> bytes:
    """The protobuf message: the pieces, and what of the trainer and the normalizer a reader asks for."""
    content = b"".join(
        proto.field(1, proto.field(1, name) + proto.field(2, score) + proto.field(3, kind))
        for name, score, kind in zip(pieces.names, pieces.scores, pieces.kinds, strict=True)
    )
    unknown = pieces.kinds.index(UNKNOWN)
    ids = dict(zip((40, 41, 42, 43), (unknown, pieces.bos, pieces.eos, pieces.pad), strict=True))
    trainer = proto.field(3, _BPE) + proto.field(4, len(pieces.names)) + proto.field(35, 1)
    trainer += b"".join(proto.field(key, number) for key, number in ids.items())
    trainer += b"".join(proto.field(key + 5, pieces.names[number]) for key, number in ids.items() if number >= 0)
    rewriting = proto.field(1, _IDENTITY) + (proto.field(2, pieces.charsmap) if pieces.charsmap else b"")
    rewriting += proto.field(3, int(pieces.dummy_prefix)) + proto.field(4, int(pieces.remove_extra_whitespaces))
    return content + proto.field(2, trainer) + proto.field(3, rewriting + proto.field(5, 1))
