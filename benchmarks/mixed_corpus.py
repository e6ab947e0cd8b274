"""Test text for the benchmarks of curation: real Chinese and English passages, with labelled copies mixed in.

    python benchmarks/mixed_corpus.py --data DATA -o OUT --mb 200 [--scrambled]

`mixed` cuts the documents of DATA (folders `zh/` and `en/` of .jsonl.zst) into passages as long as a web page, then
adds copies: 8 % exact ones, 8 % with 1 % or 3 % of their characters (zh) or words (en) replaced, and a shared paragraph
in 5 % of all documents. The labels stay with the documents, so whoever removes duplicates can be scored.
`scrambled` makes any amount of text: passages with a third of their words replaced, so that no two repeats are alike.
"""

import argparse
import io
import itertools
import json
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zstandard

CHARACTERS = {"zh": 700, "en": 2200}  # of a passage, about
SHORTEST = {"zh": 60, "en": 200}
BOILERPLATE = {
    "zh": "本站所有文章版权归原作者所有，未经许可不得转载；如有侵权请与我们联系，我们将在二十四小时之内删除相关内容。",
    "en": "All articles on this site are the property of their authors and may not be copied without consent.",
}
_BLOCK = 512  # passages scrambled at a time
HAN = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True)
class Sample:
    """A document and where it comes from: `kind` is clean, exact, edited_1 or edited_3; `of` is the original's id."""

    id: str
    text: str
    lang: str
    kind: str = "clean"
    of: str = ""


def passages(data: Path, lang: str) -> Iterator[str]:
    """The text of one language in pieces that end with a line."""
    for path in sorted((data / lang).glob("*.jsonl.zst")):
        with zstandard.open(path, "rb") as stream:
            for line in io.TextIOWrapper(stream, encoding="utf-8"):
                row = json.loads(line)
                for text in (row["text"],) if "text" in row else (row["classical"], row["modern"]):
                    yield from _cut(text, CHARACTERS[lang], SHORTEST[lang])


def _cut(text: str, longest: int, shortest: int) -> Iterator[str]:
    part: list[str] = []
    for line in text.split("\n"):
        if part and sum(map(len, part)) + len(line) > longest:
            yield from _long_enough("\n".join(part), shortest)
            part = []
        part.append(line)
    yield from _long_enough("\n".join(part), shortest)


def _long_enough(text: str, shortest: int) -> Iterator[str]:
    if len(text.strip()) >= shortest:
        yield text.strip()


def edited(text: str, lang: str, share: float, pool: list[str], draw: random.Random) -> str:
    """The text with a share of its characters (zh, whatever they are) or words (en) replaced by others of `pool`."""
    units = list(text) if lang == "zh" else text.split(" ")
    for place in draw.sample(range(len(units)), max(1, round(share * len(units)))):
        units[place] = draw.choice(pool)
    return ("" if lang == "zh" else " ").join(units)


def pool_of(texts: Iterable[str], lang: str) -> list[str]:
    """Characters or words of the language, as often as they occur."""
    joined = itertools.chain.from_iterable(HAN.findall(text) if lang == "zh" else text.split() for text in texts)
    return list(itertools.islice(joined, 200_000))


def mixed(data: Path, megabytes: float, seed: int = 1) -> list[Sample]:
    """Half Chinese, half English by bytes, in a random order that depends on the seed alone."""
    draw = random.Random(seed)
    samples: list[Sample] = []
    for lang in ("zh", "en"):
        texts = sorted(set(passages(data, lang)))
        draw.shuffle(texts)
        pool = pool_of(texts[:2000], lang)
        size = 0
        for number, text in enumerate(texts):
            if size > megabytes / 2 * 1e6:
                break
            original = Sample(f"{lang}{number:07d}", _with_notice(text, lang, draw), lang)
            copies = [original]
            chance = draw.random()
            if chance < 0.08:
                copies.append(Sample(original.id + "-exact", text, lang, "exact", original.id))
            elif chance < 0.16:
                percent = 1 if chance < 0.12 else 3
                text = edited(text, lang, percent / 100, pool, draw)
                copies.append(Sample(f"{original.id}-{percent}", text, lang, f"edited_{percent}", original.id))
            samples += copies
            size += sum(len(copy.text.encode()) for copy in copies)
    draw.shuffle(samples)
    return samples


def _with_notice(text: str, lang: str, draw: random.Random) -> str:
    return f"{text}\n{BOILERPLATE[lang]}" if draw.random() < 0.05 else text


def scrambled(data: Path, megabytes: float, seed: int = 1) -> Iterator[Sample]:
    """Passages again and again, a third of their characters or words replaced each time.

    Works on blocks of passages as arrays of numbers (code points, words), so gigabytes take minutes.
    """
    draw, order = np.random.default_rng(seed), random.Random(seed)
    texts = [(lang, text) for lang in ("zh", "en") for text in passages(data, lang)]
    order.shuffle(texts)
    words = sorted({word for lang, text in texts if lang == "en" for word in text.split(" ")})
    number_of = {word: number for number, word in enumerate(words)}
    spelled = np.array(words, object)
    units = [_numbers(text, number_of if lang == "en" else None) for lang, text in texts]
    pools = {lang: _pool(lang, texts, units) for lang in ("zh", "en")}
    size = number = 0
    for first in itertools.cycle(range(0, len(texts), _BLOCK)):
        langs = [lang for lang, _ in texts[first : first + _BLOCK]]
        block = np.concatenate(units[first : first + _BLOCK])
        ends = np.cumsum([len(part) for part in units[first : first + _BLOCK]]).tolist()
        chinese = np.repeat([lang == "zh" for lang in langs], np.diff(ends, prepend=0))
        chosen = draw.random(len(block)) < 1 / 3
        for lang, here in (("zh", chosen & chinese & (block >= 0x4E00) & (block < 0xA000)), ("en", chosen & ~chinese)):
            block[here] = draw.choice(pools[lang], int(here.sum()))
        for lang, start, end in zip(langs, [0, *ends], ends, strict=False):
            part = block[start:end]
            new = part.tobytes().decode("utf-32-le") if lang == "zh" else " ".join(spelled[part].tolist())
            size += len(new.encode())
            if size > megabytes * 1e6:
                return
            yield Sample(f"{lang}{number:09d}", new, lang)
            number += 1


def _numbers(text: str, number_of: dict[str, int] | None) -> np.ndarray:
    if number_of is None:
        return np.frombuffer(text.encode("utf-32-le"), np.uint32)
    return np.array([number_of[word] for word in text.split(" ")], np.uint32)


def _pool(lang: str, texts: list[tuple[str, str]], units: list[np.ndarray]) -> np.ndarray:
    """Characters or words of a language, as often as they occur."""
    found = np.concatenate([part for (other, _), part in zip(texts, units, strict=True) if other == lang][:2000])
    return found[(found >= 0x4E00) & (found < 0xA000)] if lang == "zh" else found


def write(samples: Iterable[Sample], folder: Path, files: int = 1) -> int:
    """Write JSONL files per language (`zh-00.jsonl`, ...); returns the bytes of text."""
    folder.mkdir(parents=True)
    size = 0
    streams = {
        (lang, number): (folder / f"{lang}-{number:02d}.jsonl").open("w", encoding="utf-8")
        for lang in ("zh", "en")
        for number in range(files)
    }
    for number, sample in enumerate(samples):
        size += len(sample.text.encode())
        row = {"id": sample.id, "text": sample.text}
        streams[sample.lang, number % files].write(json.dumps(row, ensure_ascii=False) + "\n")
    for stream in streams.values():
        stream.close()
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--mb", type=float, default=200)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--scrambled", action="store_true")
    asked = parser.parse_args()
    make = scrambled if asked.scrambled else mixed
    size = write(make(asked.data, asked.mb), asked.output, asked.files)
    print(f"{size / 1e6:.1f} MB of text in {asked.output}")


if __name__ == "__main__":
    main()
