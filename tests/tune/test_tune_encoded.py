"""Encoded rows on disk are what encoding one by one gives, survive a kill, and are written once."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from inkstone.chat import CHATML, CHATS, encode_segments, read_chats
from inkstone.errors import InputError
from inkstone.progress import Silent
from inkstone.tokenizer import Tokenizer
from inkstone.train.mesh import ALONE
from inkstone.tune import SFTSettings, encoded
from inkstone.tune.conversations import encode_chats
from inkstone.tune.encoded import Encode, EncodedChats, Kept

COUNT, LENGTH = 40, 48


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows of which every message has a weight of its own, and some are malformed or too long."""
    monkeypatch.setattr(encoded, "_PART", 7)
    rows = [
        {"messages": [
            {"role": "user", "content": f"what is {n}?"}, {"role": "assistant", "content": "你好" * (4 * (n % 9))},
            {"role": "user", "content": "Hello"}, {"role": "assistant", "content": f"{n}。", "loss_weight": n / 3},
        ]}
        for n in range(1, COUNT)
    ]  # fmt: skip
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def made(tokenizer: Tokenizer, **changes: object) -> Encode[list]:  # type: ignore[type-arg]
    values = {"inputs": ["x"], "sequence_length": LENGTH, "batch_tokens": LENGTH, "bpe_dropout": 0.1, **changes}
    return partial(encode_chats, template=CHATML, settings=SFTSettings.model_validate(values), tokenizer=tokenizer)


def test_what_is_read_from_the_maps_is_what_encoding_gives(file: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept", tokenizer, Silent(), ALONE)
    found = EncodedChats(kept.files([file, file], CHATS, "how", made(tokenizer), "skip"))
    chats, skipped = vars(read_chats([file], "skip")).values()
    told = found.files[0].facts
    assert len(skipped) == told["faults"]["malformed"] == 4 and told["told"]["shortened"] > 0
    assert len(found) == 2 * len(chats) and found.files[0].chats == len(chats)
    for number, chat in enumerate(chats * 2):
        one = found[number]
        segments = CHATML.segments(chat)
        ids, weights = encode_segments(segments, tokenizer)
        if len(ids) > LENGTH:
            segments = CHATML.segments(chat[2:])
            ids, weights = encode_segments(segments, tokenizer)
        assert list(one.ids) == ids and list(one.weights) == weights and list(one.segments) == segments
        assert (found.lengths[number], found.learned[number]) == (len(ids), sum(weight > 0 for weight in weights))


def test_a_killed_run_goes_on_and_a_finished_one_is_used_again(
    file: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    encode = made(tokenizer)
    whole = Kept(tmp_path / "whole", tokenizer, Silent(), ALONE).files([file], CHATS, "how", encode, "skip")[0]
    kept = Kept(tmp_path / "kept", tokenizer, Silent(), ALONE)
    child = os.fork()
    if not child:
        parts: list[int] = []

        def dies(chats: list) -> object:  # type: ignore[type-arg]
            parts.append(len(chats))
            if len(parts) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return encode(chats)

        kept.files([file], CHATS, "how", dies, "skip")  # type: ignore[arg-type]
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    place = kept.folder / whole.place.name
    with (place / "ids.bin").open("ab") as torn:
        torn.write(b"half a part")
    rows: list[int] = []

    def counted(chats: list) -> object:  # type: ignore[type-arg]
        rows.append(len(chats))
        return encode(chats)

    again = kept.files([file], CHATS, "how", counted, "skip")[0]  # type: ignore[arg-type]
    assert 0 < sum(rows) <= COUNT - 1 - 3 * 7, "what was done before the kill is not done again"
    for name in ("ids.bin", "runs.bin", "segments.bin", "sequences.bin", "facts.json"):
        assert (again.place / name).read_bytes() == (whole.place / name).read_bytes(), name

    rows.clear()
    kept.files([file], CHATS, "how", counted, "skip")  # type: ignore[arg-type]
    assert not rows, "a finished file is not encoded again"
    with pytest.raises(InputError, match="4 malformed rows in all"):
        kept.files([file], CHATS, "how", counted, "refuse")  # type: ignore[arg-type]
    with (place / "runs.bin").open("r+b") as cut:
        cut.truncate(10)
    kept.files([file], CHATS, "how", counted, "skip")  # type: ignore[arg-type]
    assert sum(rows) == len(read_chats([file], "skip").chats), "what was cut off is made anew"
    file.write_text(file.read_text(encoding="utf-8").replace("Hello", "world"), encoding="utf-8")
    new = kept.files([file], CHATS, "how", encode, "skip")
    assert new[0].place != place and place.is_dir()
    kept.forget_others(new)
    assert [path.name for path in kept.folder.iterdir()] == [new[0].place.name]


_READ = """
import resource, sys
from pathlib import Path
from inkstone.chat import CHATML
from inkstone.progress import Silent
from inkstone.tokenizer import Tokenizer
from inkstone.tune import SFTSettings, Work
from inkstone.tune.conversations import packed_chats
folder, file = Path(sys.argv[1]), Path(sys.argv[2])
settings = SFTSettings(inputs=["x"], sequence_length=256, batch_tokens=256)
work = Work(settings, [file], folder, folder / "out", folder / "scratch", Silent())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows, _, told = packed_chats(work, CHATML, Tokenizer.load(folder))
sum(int(rows.row(0, index).tokens[0]) for index in range(0, rows.rows_per_epoch, 10))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, told["conversations"])
"""


@pytest.mark.slow
def test_many_conversations_take_little_memory(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    row = json.dumps({"instruction": "what is 12 + 7? " * 4, "output": "The answer is 19. " * 8})
    file = tmp_path / "rows.json"
    file.write_text("[" + ",\n".join([row] * 50_000) + "]", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", _READ, str(tmp_path), str(file)], capture_output=True, text=True, check=True
    )
    kib, conversations = map(int, done.stdout.split())
    assert conversations == 49_000
    assert kib < 150_000, "lists of them took 1.2 GB"
