"""Vocabularies in GGUF files: the published encoding vectors, and what is refused."""

from pathlib import Path

import pytest
from foreign_samples import REAL, needs_shared

from inkstone.errors import InputError
from inkstone.tokenizer import Tokenizer
from inkstone.tokenizer.foreign.gguf import read_metadata

gguf = pytest.importorskip("gguf")


def write(path: Path, model: str = "gpt2", pre: str | None = "mpt", **more: object) -> Path:
    """A vocabulary-only file with an alphabet of bytes, written by the gguf package."""
    from tokenizers.pre_tokenizers import ByteLevel

    writer = gguf.GGUFWriter(path, "mpt")
    writer.add_tokenizer_model(model)
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    tokens = [*sorted(ByteLevel.alphabet()), "ab", "Ġab", "<|endoftext|>", "  "]
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 258 + [3, 4])
    writer.add_token_merges(["a b", "Ġ ab"])
    writer.add_eos_token_id(258)
    for name, value in more.items():
        writer.add_key_value(name, value, gguf.GGUFValueType.UINT32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@needs_shared
@pytest.mark.parametrize("name", ["llama-spm", "llama-bpe", "falcon", "mpt"])
def test_every_published_vector_has_exactly_its_ids(name: str) -> None:
    tokenizer = Tokenizer.load(REAL / f"{name}.gguf")
    texts = (REAL / f"{name}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    expected = [[int(number) for number in row.split()] for row in (REAL / f"{name}.out").read_text().split("\n")]
    assert len(texts) == len(expected) > 40
    assert tokenizer.encode_batch(texts) == expected
    if name != "mpt":  # which composes characters first (NFC)
        assert [tokenizer.decode(ids) for ids in expected] == texts
    control = [tokenizer.token_name(number) for number in sorted(tokenizer.control_ids)]
    assert control
    for ids in tokenizer.encode_batch(control + [f"a{token}b {token}" for token in control]):
        assert tokenizer.control_ids.isdisjoint(ids)


def test_the_head_is_read_as_the_gguf_package_reads_it(tmp_path: Path) -> None:
    path = write(tmp_path / "small.gguf", **{"mpt.context_length": 2048})
    theirs = {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}
    ours = read_metadata(path)
    assert ours == {key: theirs[key] for key in theirs if not key.startswith("GGUF.")}
    assert len(ours) == 8


def test_a_small_vocabulary_of_bytes_gives_every_text_back(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write(tmp_path / "small.gguf"))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (None, 258, None)
    assert tokenizer.encode("ab ab") == [256, 257] and tokenizer.encode("a  b")[1] == 259
    assert 258 not in tokenizer.encode("<|endoftext|>")
    for text in ("你好 🙂", "", "  ab\x00\n"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(("model", "pre", "said"), [
    ("gpt2", "viking", 'cuts text into words in the way "viking"'),
    ("gpt2", None, 'cuts text into words in the way "None"'),
    ("t5", None, 'a vocabulary of the kind "t5"'),
])  # fmt: skip
def test_what_would_give_other_ids_is_refused_by_name(model: str, pre: str | None, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        Tokenizer.load(write(tmp_path / "small.gguf", model, pre))


@pytest.mark.parametrize("kept", [3, 20, 200, 2500])
def test_a_truncated_file_is_refused_by_name(kept: int, tmp_path: Path) -> None:
    path = write(tmp_path / "small.gguf")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"small\.gguf is damaged, or not a GGUF file"):
        Tokenizer.load(path)


def test_another_kind_of_file_or_a_lying_length_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "small.gguf")
    content = path.read_bytes()
    path.write_bytes(b"GGML" + content[4:])
    with pytest.raises(InputError, match="does not begin with GGUF"):
        Tokenizer.load(path)
    at = content.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens") + 8
    path.write_bytes(content[:at] + (1 << 60).to_bytes(8, "little") + content[at + 8 :])
    with pytest.raises(InputError, match=f"it claims a list of {1 << 60} entries"):
        Tokenizer.load(path)
