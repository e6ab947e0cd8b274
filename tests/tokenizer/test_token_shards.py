"""Token shards hold exactly the encoded documents, and damage is found before anybody trains on it."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizer_samples import make_rows, write_split

from inkstone.errors import InkstoneError, InputError
from inkstone.progress import Silent
from inkstone.storage import read_manifest
from inkstone.tokenizer import (
    Tokenizer,
    TokenShards,
    TokensSettings,
    encode_corpus,
    open_shards,
    read_heldout_documents,
)
from inkstone.tokenizer.token_shards import ShardWriter, token_dtype


@pytest.fixture
def tokens_dir(corpus_dir: Path, tokenizer_dir: Path, tmp_path: Path) -> Path:
    output = tmp_path / "tokens"
    output.mkdir()
    encode_corpus(TokensSettings(max_shard_tokens=3000), corpus_dir, tokenizer_dir, output, Silent())
    return output


def texts_of(corpus: Path, split: str) -> list[str]:
    return pq.read_table(corpus / split, columns=["text"]).column(0).to_pylist()


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_document_is_bos_its_ids_and_eos_in_corpus_order(
    split: str, tokens_dir: Path, corpus_dir: Path, tokenizer: Tokenizer
) -> None:
    shards = open_shards(tokens_dir, split, tokenizer.fingerprint)
    texts = texts_of(corpus_dir, split)
    assert len(shards) == len(texts)
    for number, text in enumerate(texts):
        document = shards.document(number).tolist()
        assert document == [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]
        assert shards.lengths[number] == len(document)


def test_shards_stay_below_their_size_and_their_files_agree(tokens_dir: Path) -> None:
    shards = open_shards(tokens_dir, "train")
    assert len(shards.tokens) > 2
    assert max(len(tokens) for tokens in shards.tokens) <= 3000
    for tokens, offsets in zip(shards.tokens, shards.offsets, strict=True):
        assert tokens.dtype == np.dtype("<u2") and offsets.dtype == np.dtype("<i8")
        assert offsets[0] == 0 and offsets[-1] == len(tokens)
    assert [f"train-{number:05d}" for number in range(len(shards.names))] == shards.names


def test_shards_tell_the_language_and_source_of_every_document(tokens_dir: Path) -> None:
    held = open_shards(tokens_dir, "heldout")
    rows = read_heldout_documents(tokens_dir)
    assert [held.groups[group] for group in held.group_of] == [(row.lang, row.source) for row in rows]
    train, manifest = open_shards(tokens_dir, "train"), read_manifest(tokens_dir)
    assert len(train.group_of) == len(train) and list(train.groups) == sorted(set(train.groups))
    for source, counts in manifest["sources"].items():
        lengths = [shards.lengths[np.isin(shards.group_of, of_source(shards, source))] for shards in (train, held)]
        assert counts["tokens"] == sum(int(length.sum()) for length in lengths)


def of_source(shards: TokenShards, source: str) -> list[int]:
    return [index for index, (_, name) in enumerate(shards.groups) if name == source]


def test_a_document_longer_than_a_shard_gets_one_of_its_own(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "train", token_dtype(100), max_tokens=4)
    for length in (2, 9, 1, 3):
        writer.add(np.arange(length), np.array([length]), [("zh", f"source-{length}")])
    writer.close()
    sizes = [np.fromfile(tmp_path / f"{name}.tokens.bin", dtype="<u2").size for name in writer.shards]
    assert sizes == [2, 9, 4]
    assert np.fromfile(tmp_path / "train-00002.offsets.bin", dtype="<i8").tolist() == [0, 1, 4]


def test_the_manifest_counts_are_the_sums_over_documents(
    tokens_dir: Path, corpus_dir: Path, tokenizer: Tokenizer
) -> None:
    facts = read_manifest(tokens_dir)
    assert facts["tokenizer"] == tokenizer.fingerprint and facts["dtype"] == "uint16"
    assert facts["vocab_size"] == tokenizer.vocab_size
    for split in ("train", "heldout"):
        texts = texts_of(corpus_dir, split)
        shards = open_shards(tokens_dir, split)
        assert facts["splits"][split] == {
            "shards": shards.names,
            "documents": len(texts),
            "tokens": int(shards.lengths.sum()),
            "bytes": sum(len(text.encode()) for text in texts),
            "characters": sum(map(len, texts)),
        }
    for table in ("sources", "langs"):
        for key in ("documents", "tokens", "bytes"):
            total = sum(facts["splits"][split][key] for split in ("train", "heldout"))
            assert sum(entry[key] for entry in facts[table].values()) == total
    assert set(facts["langs"]) == {"zh", "en"} and set(facts["sources"]) == {"books-zh", "books-en"}


def test_heldout_rows_describe_their_documents_in_order(tokens_dir: Path, corpus_dir: Path) -> None:
    rows = read_heldout_documents(tokens_dir)
    table = pq.read_table(corpus_dir / "heldout").to_pylist()
    shards = open_shards(tokens_dir, "heldout")
    assert [row.id for row in rows] == [row["id"] for row in table]
    assert [row.lang for row in rows] == [row["lang"] for row in table]
    assert [row.bytes for row in rows] == [len(row["text"].encode()) for row in table]
    assert [row.tokens for row in rows] == shards.lengths.tolist()


@pytest.mark.parametrize(("vocab_size", "dtype"), [(8192, "<u2"), (65536, "<u2"), (65537, "<u4")])
def test_ids_take_two_bytes_until_the_vocabulary_needs_four(vocab_size: int, dtype: str) -> None:
    assert token_dtype(vocab_size) == np.dtype(dtype)
    assert np.array([vocab_size - 1], dtype=token_dtype(vocab_size))[0] == vocab_size - 1


def test_batch_size_and_flushing_do_not_change_a_byte(
    corpus_dir: Path, tokenizer_dir: Path, tokens_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "other"
    output.mkdir()
    settings = TokensSettings(max_shard_tokens=3000, batch_mb=0.001)
    encode_corpus(settings, corpus_dir, tokenizer_dir, output, Silent())
    assert json.loads((output / "manifest.json").read_text()) == json.loads((tokens_dir / "manifest.json").read_text())


def test_an_empty_heldout_split_opens_as_no_documents(tokenizer_dir: Path, tmp_path: Path) -> None:
    corpus, output = tmp_path / "corpus", tmp_path / "tokens"
    output.mkdir()
    write_split(corpus, "train", make_rows(5, seed=1))
    write_split(corpus, "heldout", [])
    encode_corpus(TokensSettings(), corpus, tokenizer_dir, output, Silent())
    assert len(open_shards(output, "heldout")) == 0
    assert read_heldout_documents(output) == []


def test_an_empty_training_split_is_refused(tokenizer_dir: Path, tmp_path: Path) -> None:
    write_split(tmp_path, "train", [])
    with pytest.raises(InputError, match="train has no text to encode"):
        encode_corpus(TokensSettings(), tmp_path, tokenizer_dir, tmp_path, Silent())


@pytest.mark.parametrize("suffix", ["tokens.bin", "offsets.bin"])
def test_a_truncated_shard_is_found_on_opening(suffix: str, tokens_dir: Path) -> None:
    path = tokens_dir / f"train-00001.{suffix}"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InkstoneError, match=rf"train-00001\.{suffix} has .* bytes"):
        open_shards(tokens_dir, "train")


def test_a_lost_shard_is_found_on_opening(tokens_dir: Path) -> None:
    (tokens_dir / "train-00000.tokens.bin").unlink()
    with pytest.raises(InkstoneError, match=r"train-00000\.tokens\.bin is missing"):
        open_shards(tokens_dir, "train")


def test_offsets_that_do_not_fit_the_tokens_are_found_on_opening(tokens_dir: Path) -> None:
    path = tokens_dir / "train-00000.offsets.bin"
    offsets = np.fromfile(path, dtype="<i8")
    offsets[-1] += 1
    offsets.tofile(path)
    with pytest.raises(InkstoneError, match="offsets and tokens do not agree"):
        open_shards(tokens_dir, "train")


def test_shards_of_another_tokenizer_are_refused(tokens_dir: Path) -> None:
    with pytest.raises(InkstoneError, match=r"encoded with another tokenizer \(.*, not ffff"):
        open_shards(tokens_dir, "train", tokenizer="f" * 64)


def test_an_unknown_split_or_a_foreign_directory_is_refused(tokens_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InkstoneError, match='no split "test", only heldout, train'):
        open_shards(tokens_dir, "test")
    (tmp_path / "else").mkdir()
    with pytest.raises(InkstoneError, match="no readable manifest"):
        open_shards(tmp_path / "else", "train")


@pytest.mark.parametrize("index", [-1, 400])
def test_a_document_outside_the_split_is_an_index_error(index: int, tokens_dir: Path) -> None:
    with pytest.raises(IndexError):
        open_shards(tokens_dir, "train").document(index)
