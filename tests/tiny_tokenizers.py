"""Small tokenizers of the two kinds that published chat models have, with the control tokens of a template."""

from collections.abc import Sequence

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from inkstone.tokenizer import Tokenizer

_TEXT = "▁[]/INSTRound0123456789答问你好用户助手系统usertanhpdi#:.\n"
_MERGES = ["▁ 你", "你 好", "▁ [", "I N", "IN S", "INS T", "▁ a", "u s", "e r", "us er", "▁ #", "# #", "答 ："]


def sentencepiece_like(control: Sequence[str] = ()) -> Tokenizer:
    """BPE over "▁" with byte fallback and a dummy prefix, as a LLaMA or Baichuan tokenizer.json has it."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256))]
    merges = [(left, right) for left, right in (merge.split(" ") for merge in _MERGES)]
    pieces += dict.fromkeys([*_TEXT.replace("\n", ""), "e", "r", "："])
    pieces += dict.fromkeys(left + right for left, right in merges)
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _with_control(backend, control)


def byte_level(control: Sequence[str] = ()) -> Tokenizer:
    """Byte-level BPE, as LLaMA-3 and BLOOM."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "a"), ("Ċ", "Ċ"), ("u", "s"), ("e", "r"), ("us", "er"), ("ä", "½"), ("å", "¥")]
    pieces = ["<s>", "</s>", *alphabet, *(left + right for left, right in merges)]
    backend = tokenizers.Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, merges))
    words = pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"), "isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_only])
    backend.decoder = decoders.ByteLevel()
    return _with_control(backend, control)


def _with_control(backend: tokenizers.Tokenizer, control: Sequence[str]) -> Tokenizer:
    names = dict.fromkeys(["<s>", "</s>", *control])
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return Tokenizer(backend, bos="<s>", eos="</s>", pad="</s>")
