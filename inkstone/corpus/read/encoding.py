"""Which encoding bytes are in: UTF-8 where that is possible, else GB18030 (GBK), Big5 or UTF-16 where plausible.

    choose_encoding(sample, whole=True)    # "utf-8", "gb18030", "big5hkscs", "utf-16-le" ..., or None: undecided

Nearly any bytes are something in GB18030, so what decodes is not yet text: real Chinese is full of its few hundred most
frequent characters, wrong readings of rare ones. A sample in which nothing stands out is undecided, and the caller
refuses it: text in the wrong characters must never enter a corpus unnoticed.
"""

import codecs
import io
from functools import cache
from typing import BinaryIO

import numpy as np

SAMPLE = 1 << 16
UNDECIDED = "neither UTF-8, GB18030, Big5 nor UTF-16 gives plausible text: set [corpus] encoding, or convert it"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_CANDIDATES = ("gb18030", "big5hkscs", "utf-16-le", "utf-16-be")
_LEAST, _CLEAR, _SHORT = 0.25, 0.1, 0.5  # plausibility needed, more than the second best's, and for few characters
# fmt: off
_FREQUENT = (
    "的一是不了在人有我他这中大来上个国到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而能好都然没日于起还发成事只作当想看文无开手十用主行"
    "方又如前所本见经头面公同三已老从动两长知民样现分将外但身些与高意进把法此实回二理美点月明其种声全工己话儿者向情部正名定女问力机给等几很业最间新什打便位因重被走电四第"
    "门相次东政海口使教西再平真听世气信北少关并内加化由却代军产入先山五太水万市眼体别处总才场师书比住员九笑性通目华报立马命活难神数件安表原车白应路期死常提感金何更反合放"
    "做系计或司利受光王果亲界及今京务解各任至清物台象记边共风战干接它许八特觉望直林题建南度统色字请爱让认论百吃义科怎元社术结六功指思非流每青夫连远资队带花快条院变联权往展"
    "這來個國說們為時會過學對裡後麼沒於還發當無開見經頭兩長樣現將與進實點種聲話兒問機給幾業間電門東聽氣關並內卻軍產萬體別處總場師書員華報馬難數應車親務記邊風戰許覺題統請"
    "愛讓認論義術結連遠資隊帶條變聯權曰乃矣乎焉哉兮吾汝君臣侯诸王归歸云雲诗詩春秋夜雨江河烟煙楼樓梦夢愁酒歌玉寒霜雪柳松竹鸟鳥落谁誰"
)
# fmt: on


def choose_encoding(sample: bytes, whole: bool) -> str | None:
    """The encoding of a text that is `sample`, or begins with it (not `whole`); None where undecided."""
    if mark := marked_encoding(sample):
        return mark
    utf8 = "utf-8" if _decoded(sample, "utf-8", whole) is not None else None
    if utf8 and 0 not in sample:  # UTF-16 has zeros where it has letters or line ends
        return utf8
    readings = ((_decoded(sample, name, whole), name) for name in _CANDIDATES)
    scores = sorted(((_plausibility(text, name), name) for text, name in readings if text), reverse=True)
    clear = scores and scores[0][0] >= _LEAST and (len(scores) == 1 or scores[0][0] - scores[1][0] >= _CLEAR)
    return scores[0][1] if clear else utf8


def marked_encoding(sample: bytes) -> str | None:
    """The encoding that a byte order mark names."""
    return next((name for mark, name in _MARKS if sample.startswith(mark)), None)


def in_utf8(stream: BinaryIO, encoding: str) -> BinaryIO:
    """A stream's text as UTF-8; reading raises UnicodeDecodeError where it is not in `encoding`."""
    if codecs.lookup(encoding).name == "utf-8":
        return stream
    return io.BufferedReader(_Recoded(stream, codecs.getincrementaldecoder(encoding)()), 1 << 20)


class _Recoded(io.RawIOBase):
    """The bytes of `stream`, decoded and encoded again."""

    def __init__(self, stream: BinaryIO, decoder: codecs.IncrementalDecoder) -> None:
        self._stream, self._decoder, self._ready, self._ended = stream, decoder, b"", False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready and not self._ended:
            data = self._stream.read(SAMPLE)
            self._ended = not data
            self._ready = self._decoder.decode(data, self._ended).encode()
        part, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def _decoded(sample: bytes, encoding: str, whole: bool) -> str | None:
    try:
        return codecs.getincrementaldecoder(encoding)().decode(sample, whole)
    except UnicodeDecodeError:
        return None


def _plausibility(text: str, encoding: str) -> float:
    """Mean weight of the characters, 1 for frequent Chinese ones, below 0 for rare ones, less what chance may add.

    ASCII letters speak for UTF-16, where each has a byte of zeros; in the others they say nothing.
    """
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    weights = _weights()[points]
    counted = weights if encoding.startswith("utf") else weights[(points > 0x7F) | (weights < 0)]
    return float(counted.mean() - _SHORT / np.sqrt(len(counted)))


@cache
def _weights() -> np.ndarray:
    weights = np.full(0x110000, -1, np.float32)
    weights[[9, 10, 12, 13, *range(32, 127)]] = 1
    for encoding, first, last in (("gb2312", 0xB0A1, 0xD7F9), ("big5", 0xA440, 0xC67E)):
        codes = np.arange(first, last + 1, dtype=">u2").tobytes()
        common = "".join(codes[place : place + 2].decode(encoding, "ignore") for place in range(0, len(codes), 2))
        weights[[ord(char) for char in common if ord(char) > 127]] = 0.2
    weights[[*range(0x3000, 0x3020), *range(0xFF01, 0xFF60), *map(ord, "“”‘’…—·")]] = 0.2
    weights[[ord(char) for char in _FREQUENT]] = 1
    return weights
