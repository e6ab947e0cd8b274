"""Average log probability (ALP) of a vocabulary on a text, by which Chinese-Mixtral chose how far to grow its own.

    ALP(D, V) = 1/|D| * sum over the sentences s of D, sum over the tokens t of s under V, of log p(t)

p(t) is the token's own share of all tokens of D under V (Zheng et al. 2021, arXiv 2109.07306, natural logarithm). A
longer piece saves a term of the sum but is rarer, so the gain from each further thousand pieces shrinks: the curve's
knee is where growing stops to pay. Higher (nearer to zero) is better; figures compare on the same text only.
"""

import re
from collections.abc import Iterable

import numpy as np

from inkstone.tokenizer.bpe.words import BLOCK_CHARACTERS, together
from inkstone.tokenizer.tokenizer import Tokenizer

_MARK, _CLOSE = "[。！？；!?;…]", "[”’」』）)\"']"
# A sentence keeps its end marks and closing quotes; a full stop ends one only before white space.
_END = re.compile(
    rf"(?<={_MARK})(?!{_MARK}|{_CLOSE})|(?<={_MARK}{_CLOSE})(?!{_MARK}|{_CLOSE})|(?<=\.)(?=\s)|(?<=\n)(?!\n)"
)


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, nothing lost: joined they are the text."""
    return [sentence for sentence in _END.split(text) if sentence]


def alp(tokenizer: Tokenizer, texts: Iterable[str]) -> float:
    """ALP of the tokenizer's vocabulary on the texts; 0 where they hold nothing but white space."""
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    sentences = 0
    found = (sentence for text in texts for sentence in split_sentences(text) if not sentence.isspace())
    for batch in together(found, len, BLOCK_CHARACTERS):
        sentences += len(batch)
        counts += np.bincount(tokenizer.encode_flat(batch, continued=True)[0], minlength=len(counts))
    used = counts[counts > 0]
    if not sentences:
        return 0.0
    return float((used * np.log(used / used.sum())).sum() / sentences)
