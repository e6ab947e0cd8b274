"""The primer stage: `render_primer` writes the embedded data that the quickstart trains, tunes and quizzes on.

    raw/ and labels.jsonl, chats.jsonl, preferences.jsonl, quiz/, problems/, prompts.json

Every part draws from its own generator, seeded by the settings' seed and the part's name, so a change in one part
leaves the bytes of the others alone.
"""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from inkstone.primer.chats import make_chats
from inkstone.primer.language import Language
from inkstone.primer.load import LANGS, load_language
from inkstone.primer.preferences import make_preferences
from inkstone.primer.quiz import Row, make_problems, make_quiz
from inkstone.primer.raw import count_pages, make_pages, write_raw
from inkstone.primer.settings import PrimerSettings
from inkstone.progress import Progress
from inkstone.stage import StageKind

CHATS_PER_MB, MOST_CHATS = 500, 6000
PREFERENCES_PER_MB, MOST_PREFERENCES = 125, 1500

PROMPTS = {
    "continue": [
        "登鹳雀楼->王之涣\n夜雨寄北->",
        "Hamlet->Shakespeare\nOne Hundred Years of Solitude->",
        "红楼梦->曹雪芹\n西游记->",
        "France->Paris\nJapan->",
        "问：金的元素符号是什么？\n答：",
        "Question: Who painted Guernica?\nAnswer:",
        "27+45：",
    ],
    "chat": {
        "zh": [
            "你好，你是谁？",
            "《静夜思》的作者是谁？",
            "那《江雪》呢？",
            "27+45等于多少？",
            "《月下邮差遗稿》的作者是谁？",
        ],
        "en": [
            "Hi, who are you?",
            "Who wrote Hamlet?",
            "And Don Quixote?",
            "What is 27+45?",
            "Who wrote The Glass Umbrella of Ennui?",
        ],
    },
}


def render_primer(settings: PrimerSettings, output: Path, progress: Progress) -> dict[str, object]:
    """Write the whole primer into the empty directory `output`; returns counts."""
    languages = [load_language(code) for code in LANGS]
    progress.advance(0, 3, "parts")

    pages = make_pages(languages, round(settings.size_mb * 1e6), _generator(settings, "pages"))
    labels = write_raw(pages, output / "raw", _generator(settings, "files"))
    _write_rows(output / "labels.jsonl", map(asdict, labels))
    progress.advance(1, 3, "parts", raw_documents=len(pages))

    chats = _make_chats(languages, settings)
    preferences = _make_preferences(languages, settings)
    _write_rows(output / "chats.jsonl", chats)
    _write_rows(output / "preferences.jsonl", preferences)
    progress.advance(2, 3, "parts", chats=len(chats))

    questions = _write_questions(languages, settings, output)
    text = json.dumps(PROMPTS, ensure_ascii=False, indent=1)
    (output / "prompts.json").write_text(text + "\n", encoding="utf-8")
    progress.advance(3, 3, "parts")
    return {
        "facts": {language.code: len(language.facts) for language in languages},
        "sums": len(languages[0].sums),
        "raw": count_pages(pages),
        "chats": len(chats),
        "preferences": len(preferences),
        **questions,
    }


def _make_chats(languages: Sequence[Language], settings: PrimerSettings) -> list[Row]:
    rng = _generator(settings, "chats")
    count = min(MOST_CHATS, round(CHATS_PER_MB * settings.size_mb))
    rows: list[Row] = [
        {"messages": chat} for language in languages for chat in make_chats(language, count // len(languages), rng)
    ]
    rng.shuffle(rows)
    return rows


def _make_preferences(languages: Sequence[Language], settings: PrimerSettings) -> list[Row]:
    rng = _generator(settings, "preferences")
    count = min(MOST_PREFERENCES, round(PREFERENCES_PER_MB * settings.size_mb))
    rows = [row for language in languages for row in make_preferences(language, count // len(languages), rng)]
    rng.shuffle(rows)
    return rows


def _write_questions(languages: Sequence[Language], settings: PrimerSettings, output: Path) -> dict[str, object]:
    """Write `quiz/` and `problems/`, Chinese rows first; returns how many there are."""
    counts: dict[str, object] = {}
    for part, make in (("quiz", make_quiz), ("problems", make_problems)):
        rng = _generator(settings, part)
        (output / part).mkdir()
        halves = [make(language, rng) for language in languages]
        for index, split in enumerate(("dev", "test")):
            rows = [row for half in halves for row in half[index]]
            _write_rows(output / part / f"{split}.jsonl", rows)
            counts[f"{part}_{split}"] = len(rows)
    return counts


def _generator(settings: PrimerSettings, part: str) -> random.Random:
    return random.Random(f"primer {settings.seed} {part}")


def _write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


PRIMER = StageKind("primer", ("primer",), lambda job: render_primer(job.of(PrimerSettings), job.output, job.progress))
