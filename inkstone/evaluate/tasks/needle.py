"""A number hidden in a long text: does a model find it, by length and by depth? Made here, without any file.

The text is Chinese prose from a few sentences in a drawn order; lengths are in characters, up to 48,000, which is
about 32,000 tokens of a Chinese vocabulary. What does not fit a model is cut and counted as truncated.
"""

import random
from pathlib import Path

from inkstone.evaluate.tasks.item import Benchmark, Item, Loaded

LENGTHS = (1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 48_000)
DEPTHS = (0, 25, 50, 75, 100)
_SENTENCES = (
    "清晨的集市上人声渐起，卖豆腐的老人把木桶放在石阶旁。", "河水绕过村口的老槐树，慢慢流向南边的平原。",
    "书院的先生讲到一半停下来，望着窗外的雨出神。", "山路两旁开满了野菊，行人都走得很慢。",
    "他把信折好放进抽屉，又点了一盏灯继续写字。", "船家说今夜风大，要等到天亮才能过江。",
    "院子里的石榴熟了，孩子们围着树数果子。", "茶馆里有人说起三十年前的一场大雪。",
)  # fmt: skip


def _made(folder: Path, split: str) -> Loaded:
    draw, items = random.Random(0), []
    for length in LENGTHS:
        for depth in DEPTHS:
            count = length // 21
            prose = [draw.choice(_SENTENCES) for _ in range(count)]
            number = str(draw.randrange(100_000, 1_000_000))
            prose.insert(count * depth // 100, f"请记住：仓库的密码是{number}。")
            texts = {"context": "".join(prose)}
            items.append(Item(f"needle/{length}/{depth}", f"{length} characters", texts, answers=(number,)))
    return Loaded(items)


NEEDLE = Benchmark(_made, made=True)
