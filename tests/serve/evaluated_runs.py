"""A run's evaluation as its stage writes it, of models that are said to have some questions right."""

import json
from pathlib import Path
from typing import Any

CHOICES = ["一", "二", "三", "四"]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def evaluated(run: Path, right: dict[str, range], how: str = "f") -> None:
    """A run's evaluation: of 120 quiz questions and of a benchmark's, each model has those of a range right."""
    place, quiz, problems = run / "evaluate", list[dict[str, Any]](), list[dict[str, Any]]()
    data = place.parent / "data"
    scores: dict[str, Any] = {"method": {"fingerprint": how}, "models": {}}
    for model, good in right.items():
        for n in range(120):
            said = {"prediction": 1 if n in good else 2, "correct": n in good}
            asked = {"question": f"{n}？" + "长" * 900, "choices": CHOICES, "answer": 1}
            quiz.append({"model": model, "id": f"q{n}"} | asked | dict.fromkeys(("letter", "text", "text_norm"), said))
        problems.append({"model": model, "id": "p", "question": "1+1?", "answer": "2", "output": f"<b>{model}</b>",
                         "correct": 0 in good})  # fmt: skip
        rows = [
            {"id": f"agronomy/{n}", "prediction": 1 if n in good else None, "gold": [1], "score": float(n in good)}
            for n in range(9)
        ]
        write(place / "benchmarks" / model / "cmmlu@official.jsonl", rows)
        told = {"tasks": {"cmmlu@official": {"fingerprint": how}}}
        (place / "benchmarks" / model / "scores.json").write_text(json.dumps(told))
        mean = {"accuracy": 0.5, "stderr": 0.1, "n": 9, "fingerprint": how}
        scores["models"][model] = {"benchmarks": {"cmmlu@official": mean}}
    write(place / "questions.jsonl", quiz)
    write(place / "problems.jsonl", problems)
    (place / "scores.json").write_text(json.dumps(scores))
    stage = {"settings": {"evaluate": {"data": str(data)}}}
    (place / "stage.json").write_text(json.dumps(stage))
