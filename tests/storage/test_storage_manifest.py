"""Manifests find damage; fingerprints are equal for equal content and different otherwise."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inkstone.errors import InkstoneError
from inkstone.storage import file_sha256, fingerprint, read_manifest, verify_manifest, write_manifest

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "part").mkdir()
    (tmp_path / "a.bin").write_bytes(bytes(range(100)))
    (tmp_path / "part" / "砚.txt").write_text("墨")
    write_manifest(tmp_path, {"documents": 3})
    return tmp_path


def test_an_untouched_directory_verifies_and_returns_its_facts(directory: Path) -> None:
    manifest = verify_manifest(directory, contents=True)
    assert manifest["documents"] == 3
    assert isinstance(manifest["files"], dict)
    assert set(manifest["files"]) == {"a.bin", "part/砚.txt"}


@pytest.mark.parametrize("contents", [True, False])
def test_truncated_and_missing_files_are_all_named(contents: bool, directory: Path) -> None:
    (directory / "a.bin").write_bytes(bytes(range(99)))
    (directory / "part" / "砚.txt").unlink()
    with pytest.raises(InkstoneError) as caught:
        verify_manifest(directory, contents=contents)
    assert "a.bin has 99 bytes, not 100" in str(caught.value)
    assert "part/砚.txt is missing" in str(caught.value)


def test_one_changed_bit_is_found_when_contents_are_checked(directory: Path) -> None:
    content = bytearray((directory / "a.bin").read_bytes())
    content[50] ^= 1
    (directory / "a.bin").write_bytes(content)
    verify_manifest(directory)
    with pytest.raises(InkstoneError, match=r"a\.bin has changed since it was written"):
        verify_manifest(directory, contents=True)


@pytest.mark.parametrize("text", ["", "{", "[]", '"files"', "{}", '{"files": 1}'])
def test_a_damaged_manifest_is_an_error_that_says_what_to_do(text: str, directory: Path) -> None:
    (directory / "manifest.json").write_text(text)
    with pytest.raises(InkstoneError, match="delete the directory and run its stage again"):
        verify_manifest(directory)


def test_a_directory_without_a_manifest_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InkstoneError, match=r"has no readable manifest\.json"):
        read_manifest(tmp_path)


def reversed_keys(value: object) -> object:
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


@given(PLAIN)
def test_fingerprint_does_not_depend_on_the_order_of_keys(value: object) -> None:
    assert fingerprint(value) == fingerprint(reversed_keys(value))


@given(PLAIN, PLAIN)
def test_fingerprints_are_equal_exactly_when_the_values_are_the_same_json(one: object, other: object) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (fingerprint(one) == fingerprint(other)) == same


@pytest.mark.parametrize(
    ("one", "other"), [([1, 2], [2, 1]), (1, "1"), ({"a": 1}, {"b": 1}), ([["a"], "b"], [["a", "b"]]), (None, "null")]
)
def test_different_values_have_different_fingerprints(one: object, other: object) -> None:
    assert fingerprint(one) != fingerprint(other)


def test_fingerprint_is_the_same_in_every_process_and_takes_paths(tmp_path: Path) -> None:
    assert fingerprint({"砚": [1, 2.5, None, True]}) == (
        "41f54a941ea4e113cabd563ac680e9414ed9562f9742be6130bf443a248c2485"
    )
    assert fingerprint(Path("a/b")) == fingerprint("a/b")
    with pytest.raises(TypeError, match="cannot fingerprint a set"):
        fingerprint({"a": {1}})


def test_file_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert file_sha256(tmp_path / "file") == expected
