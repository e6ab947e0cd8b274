"""`inkstone evaluate explain cmmlu@official`: the exact prompt of one question, every space and line end visible."""

from pathlib import Path

from inkstone.evaluate.protocols import Protocol
from inkstone.evaluate.run.runner import ask_all, prompt_hash
from inkstone.evaluate.tasks import BENCHMARKS, load

_VISIBLE = str.maketrans({" ": "·", "\t": "→\t", "\n": "⏎\n", "\r": "␍", "\u3000": "□", "\u00a0": "⍽"})


def visible_spaces(text: str) -> str:
    """Spaces as ·, line ends as ⏎, tabs as →, wide spaces as □."""
    return text.translate(_VISIBLE)


def explain(protocol: Protocol, data: Path, number: int = 0) -> str:
    """What the protocol is, then what the question of that number looks like, then what is scored."""
    loaded = load(protocol.task, data)
    item = loaded.items[number % len(loaded.items)]
    [ask] = ask_all(protocol, loaded, [item])
    how = {
        "sum": "the summed log-probability of each ending",
        "character": "the summed log-probability of each ending, and the same per character of the option",
        "letter_piece": "the letter's own token, as the vocabulary names it, at the next position",
        "letter_last": "the last token of the letter's encoding, at the next position",
        "whole": "the loss per token of the whole text with each ending",
        "judge": f"each answer by a judge ({protocol.read})",
        "write": f"what is written ({protocol.max_new_tokens} tokens at most), read by {protocol.read}",
    }[protocol.score]
    hashed = "" if protocol.score == "judge" else f"prompt {prompt_hash(ask)}, "
    lines = [
        f"{protocol.label}  fingerprint {protocol.fingerprint}  {protocol.shots} examples",
        protocol.note,
        f"scored: {how}",
        f"question: {item.id} ({hashed}split {BENCHMARKS[protocol.task].splits[0]})",
        "",
    ]
    if protocol.score == "judge":
        for number, turn in enumerate(item.choices, 1):
            lines += [f"[user, turn {number}]", visible_spaces(turn)]
            lines += [f"[judge, turn {number}]", visible_spaces(item.texts[f"prompt/{number}"])]
    elif ask.turns:
        for role, text in ask.rounds(ask.examples):
            lines += [f"[{role}]", visible_spaces(text)]
    for prompt in ask.contexts or (() if ask.turns else (ask.prompt(),)):
        lines.append(visible_spaces(prompt))
    lines += ["", *(f"ending {number}: {visible_spaces(ending)}" for number, ending in enumerate(ask.endings))]
    lines += [f"stops at: {visible_spaces(stop)}" for stop in protocol.stops]
    lines.append(f"right: {', '.join(item.answers) or ', '.join(map(str, item.gold)) or 'hidden'}")
    return "\n".join(lines)
