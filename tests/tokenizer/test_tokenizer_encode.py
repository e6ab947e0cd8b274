"""Encoding a corpus: every part once, in any number of processes, kept through kills, from any kind of text."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizer_samples import make_rows, write_split

from inkstone.errors import InkstoneError, InputError
from inkstone.progress import Silent
from inkstone.storage import read_manifest
from inkstone.tokenizer import Tokenizer, TokenizerSettings, TokensSettings, encode_corpus, open_shards, write_shards
from inkstone.tokenizer import train_tokenizer as train

SMALL = TokensSettings(part_mb=0.01, processes=1)
_ENCODE = """
import sys
from pathlib import Path
from inkstone.progress import Silent
from inkstone.storage import atomic_directory
from inkstone.tokenizer import TokensSettings, encode_corpus
corpus, tokenizer, output = map(Path, sys.argv[1:])
if __name__ == "__main__":
    with atomic_directory(output) as draft:
        settings = TokensSettings(part_mb=0.01, processes=1)
        encode_corpus(settings, corpus, tokenizer, draft, Silent(), output.with_name(".store"))
"""


def run(settings: TokensSettings, corpus: Path | list[Path], tokenizer: Path, output: Path, store: Path | None = None):
    output.mkdir()
    return encode_corpus(settings, corpus, tokenizer, output, Silent(), store)


def documents(tokens: Path, split: str = "train") -> list[list[int]]:
    shards = open_shards(tokens, split)
    return [shards.document(number).tolist() for number in range(len(shards))]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    write_split(tmp_path / "corpus", "train", make_rows(700, seed=1))
    write_split(tmp_path / "corpus", "heldout", make_rows(30, seed=2))
    return tmp_path / "corpus"


def test_parts_and_processes_do_not_change_the_documents(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(TokensSettings(processes=1), corpus, tokenizer_dir, tmp_path / "whole")
    monkeypatch.setattr(write_shards, "_ALONE_MB", 0.0)
    parts = run(TokensSettings(part_mb=0.01, processes=2), corpus, tokenizer_dir, tmp_path / "parts")
    assert int(str(parts["parts"])) > 4 and whole["parts"] == 2
    for split in ("train", "heldout"):
        assert documents(tmp_path / "whole", split) == documents(tmp_path / "parts", split)
    assert whole["sources"] == parts["sources"] and whole["langs"] == parts["langs"]
    assert not (tmp_path / "parts" / ".parts").exists()


def test_only_what_is_new_is_encoded(corpus: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = run(SMALL, corpus, tokenizer_dir, tmp_path / "1", store)
    assert first["parts_encoded_now"] == first["parts"]
    assert run(SMALL, corpus, tokenizer_dir, tmp_path / "2", store)["parts_encoded_now"] == 0
    table = pq.read_table(corpus / "train" / "part-00000.parquet")
    pq.write_table(table.slice(0, 40), corpus / "train" / "part-00001.parquet")
    assert run(SMALL, corpus, tokenizer_dir, tmp_path / "3", store)["parts_encoded_now"] == 1
    assert documents(tmp_path / "3") == documents(tmp_path / "1") + documents(tmp_path / "1")[:40]
    other = TokensSettings(part_mb=0.01, processes=1, max_shard_tokens=500)
    again = run(other, corpus, tokenizer_dir, tmp_path / "4", store)
    assert again["parts_encoded_now"] == again["parts"]  # other settings, other shards
    assert len(list(store.iterdir())) == again["parts"]  # what nobody uses is not kept
    assert documents(tmp_path / "3") == documents(tmp_path / "4")


def test_another_tokenizer_encodes_everything_again(corpus: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    run(SMALL, corpus, tokenizer_dir, tmp_path / "1", tmp_path / "store")
    (tmp_path / "t").mkdir()
    train(TokenizerSettings(vocab_size=420), corpus, tmp_path / "t", Silent())
    result = run(SMALL, corpus, tmp_path / "t", tmp_path / "2", tmp_path / "store")
    assert result["parts_encoded_now"] == result["parts"]


def test_a_killed_run_continues_with_the_parts_that_are_missing(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    write_split(corpus, "train", make_rows(4000, seed=3))
    output, store = tmp_path / "tokens", tmp_path / ".store"
    script = tmp_path / "encode.py"
    script.write_text(_ENCODE, encoding="utf-8")
    command = [sys.executable, str(script), str(corpus), str(tokenizer_dir), str(output)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    while process.poll() is None and len([*store.glob("[0-9a-f]*")]) < 3:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len([*store.glob("[0-9a-f]*")])
    assert kept >= 3 and not output.exists()
    result = run(SMALL, corpus, tokenizer_dir, output, store)
    assert result["parts_encoded_now"] == int(str(result["parts"])) - kept > 0
    run(SMALL, corpus, tokenizer_dir, tmp_path / "fresh")
    assert documents(output) == documents(tmp_path / "fresh")
    assert read_manifest(output)["files"] == read_manifest(tmp_path / "fresh")["files"]


def test_a_killed_worker_ends_in_a_sentence_and_keeps_what_was_done(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_shards, "_ALONE_MB", 0.0)
    monkeypatch.setattr(write_shards, "_encode_part", _die)
    with pytest.raises(InkstoneError, match=r"killed 3 times.*run the same command again with fewer .tokens."):
        run(TokensSettings(part_mb=0.01, processes=2), corpus, tokenizer_dir, tmp_path / "t", tmp_path / "store")
    assert not (tmp_path / "t" / "manifest.json").exists()


def _die(tools: object, job: object, store: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_raw_files_are_trained_on_and_encoded(tokenizer_dir: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "a.txt").write_text("明月照我还。\n\nthe river", encoding="utf-8")
    (raw / "b.jsonl").write_text('{"text": "春风"}\n{"content": "x = 10", "lang": "en"}\n', encoding="utf-8")
    with gzip.open(raw / "c.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.write('{"text": "山高水长"}\n')
    pq.write_table(pa.table({"text": ["学而时习之"]}), raw / "d.parquet")
    result = run(TokensSettings(), [raw], tokenizer_dir, tmp_path / "tokens")
    texts = ["明月照我还。\n\nthe river", "春风", "x = 10", "山高水长", "学而时习之"]
    wanted = [[tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id] for text in texts]
    assert documents(tmp_path / "tokens") == wanted
    assert set(result["langs"]) == {"en", "other"} and set(result["sources"]) == {"a", "b", "c", "d"}  # type: ignore[arg-type]
    (tmp_path / "t").mkdir()
    train(TokenizerSettings(vocab_size=400), [raw / "a.txt", raw / "b.jsonl"], tmp_path / "t", Silent())
    assert json.loads((tmp_path / "t" / "measure.json").read_text())["split"] == "train"
    assert Tokenizer.load(tmp_path / "t").decode(Tokenizer.load(tmp_path / "t").encode("春风 x")) == "春风 x"


BAD = [b"fine \xff\xfe text", b"half \xe6\x98", b"surrogate \xed\xa0\x80"]


def write_bytes(corpus: Path, values: list[bytes]) -> None:
    (corpus / "train").mkdir(parents=True)
    (corpus / "heldout").mkdir()
    rows = len(values)
    strings = pa.array(values, pa.binary()).view(pa.string())  # Parquet readers do not check it
    names = {name: pa.array([f"{name}{number}" for number in range(rows)]) for name in ("id", "source", "lang")}
    pq.write_table(pa.table({"text": strings, **names}), corpus / "train" / "part-00000.parquet")


@pytest.mark.parametrize("value", BAD)
def test_bytes_that_are_not_utf8_are_refused_or_replaced_and_counted(
    value: bytes, tokenizer_dir: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    write_bytes(tmp_path / "corpus", [b"ab", value, "\x98\x99 明".encode()])
    with pytest.raises(InputError, match=r'document id1: byte \d+ is not UTF-8\. Repair it, or .* "replace"'):
        run(TokensSettings(), tmp_path / "corpus", tokenizer_dir, tmp_path / "1")
    with pytest.raises(InputError, match="is not UTF-8"):
        train(TokenizerSettings(vocab_size=400), tmp_path / "corpus", tmp_path / "1", Silent())
    settings = TokensSettings(invalid_utf8="replace")
    result = run(settings, tmp_path / "corpus", tokenizer_dir, tmp_path / "2")
    texts = ["ab", value.decode("utf-8", "replace"), "\x98\x99 明"]
    assert [tokenizer.decode(ids[1:-1]) for ids in documents(tmp_path / "2")] == texts
    assert result["splits"]["train"]["repaired"] == 1 and "id1" in str(result["repaired"])  # type: ignore[index]


def test_a_character_cut_between_two_documents_does_not_join_them(tokenizer_dir: Path, tmp_path: Path) -> None:
    one, two = "明".encode()[:2], "明".encode()[2:]
    write_bytes(tmp_path / "corpus", [one, two])
    result = run(TokensSettings(invalid_utf8="replace"), tmp_path / "corpus", tokenizer_dir, tmp_path / "t")
    assert result["splits"]["train"]["repaired"] == 2  # type: ignore[index]


def test_bad_records_of_raw_files_are_refused_by_line_or_replaced(
    tokenizer_dir: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "good"}\n{"text": "b\xffd"}\n{"text": "half \\ud83d pair"}\n')
    with pytest.raises(InputError, match=r"bad\.jsonl:2: not UTF-8 .*invalid_utf8"):
        run(TokensSettings(), [path], tokenizer_dir, tmp_path / "1")
    result = run(TokensSettings(invalid_utf8="replace"), [path], tokenizer_dir, tmp_path / "2")
    texts = [tokenizer.decode(ids[1:-1]) for ids in documents(tmp_path / "2")]
    assert texts[0] == "good" and texts[1] == "b\ufffdd" and texts[2].startswith("half ?")
    assert result["splits"]["train"]["repaired"] == 2  # type: ignore[index]
    path.write_text("not json\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"bad\.jsonl:1: not JSON"):
        run(TokensSettings(), [path], tokenizer_dir, tmp_path / "3")


def test_nul_and_control_characters_come_back(tokenizer_dir: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    text = "a\x00b\x7f\x1b[0m\u200b\ufeff明\x00"
    write_split(tmp_path / "corpus", "train", [("a", text, "s", "en")])
    write_split(tmp_path / "corpus", "heldout", [])
    run(TokensSettings(), tmp_path / "corpus", tokenizer_dir, tmp_path / "t")
    assert tokenizer.decode(documents(tmp_path / "t")[0][1:-1]) == text


def test_text_of_no_characters_and_a_missing_path_are_refused(tokenizer_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    with pytest.raises(InputError):
        run(TokensSettings(), [tmp_path / "empty.txt"], tokenizer_dir, tmp_path / "1")
    with pytest.raises(InputError) as caught:
        run(TokensSettings(), [tmp_path / "no", tmp_path / "nothing.txt"], tokenizer_dir, tmp_path / "2")
    assert len(caught.value.problems) == 2


def test_ids_wider_than_16_bits_are_written_as_32(tmp_path: Path) -> None:
    from inkstone.tokenizer.token_shards import ShardWriter, token_dtype

    writer = ShardWriter(tmp_path, "train", token_dtype(70_000), 100)
    writer.add(np.array([69_999, 1]), np.array([2]), [("zh", "s")])
    writer.close()
    assert np.fromfile(tmp_path / "train-00000.tokens.bin", dtype="<u4").tolist() == [69_999, 1]
