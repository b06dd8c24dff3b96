"""The digest that a file carries of itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from xxhash import xxh3_128

from capt_core.artifacts.digests import PLACEHOLDER, content_digest, is_intact, seal


def sealed(folder: Path, before: bytes, behind: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(before + PLACEHOLDER.encode() + behind)
    seal(path)
    return path


@pytest.mark.parametrize("before", [0, 7, 65_000])
@pytest.mark.parametrize("behind", [0, 3, (1 << 18) - 65_100, 1 << 19])
def test_the_digest_is_that_of_the_bytes_with_zeros_in_its_place(
    tmp_path: Path, before: int, behind: int
) -> None:
    parts = bytes(range(256)) * (before // 256 + 1), b"\xff" * behind
    path = sealed(tmp_path, parts[0][:before], parts[1])
    expected = xxh3_128(parts[0][:before] + PLACEHOLDER.encode() + parts[1]).hexdigest()
    assert path.read_bytes()[before:][: len(PLACEHOLDER)].decode().endswith(f":{expected}")
    assert content_digest(path) == expected[:12]
    assert is_intact(path)


def test_a_digest_on_the_border_of_what_is_read_at_once_is_found(tmp_path: Path) -> None:
    # Placed by the end of the file, as in a Parquet file's metadata.
    for before in range((1 << 18) - len(PLACEHOLDER) - 1, (1 << 18) + 1, 13):
        assert is_intact(sealed(tmp_path, b"a" * before, b"end")), before


@pytest.mark.parametrize("place", [0, 1 << 18, -1])
def test_one_changed_bit_is_noticed(tmp_path: Path, place: int) -> None:
    path = sealed(tmp_path, b"a", b"\x00" * (1 << 18) + b"b")
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert is_intact(path) is False


def test_a_file_without_a_place_for_a_digest(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert is_intact(path) is None
    # SHA-256 of "abc" begins like this.
    assert content_digest(path) == "ba7816bf8f01"
    with pytest.raises(ValueError, match="holds no place for a digest"):
        seal(path)
