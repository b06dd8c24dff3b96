"""Addresses as paths, and what of them is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capt_core.addresses import (
    absence,
    address_of,
    ambiguous,
    private,
    public,
    remember,
    usable,
    without_secrets,
)
from capt_core.errors import CaptError
from capt_core.params import Data
from capt_core.settings_file import validate
from capt_core.user_paths import brief

WORD = st.text("abcXYZ019-_ ~%ä", min_size=1, max_size=8)
SECRETS = (
    "https://me:SECRET@h.org/a.jpg",
    "https://h.org/a.jpg?sig=SECRET",
    "s3://k:SECRET@b/a.jpg",
)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["s3://", "gs://", "https://"]), st.lists(WORD, min_size=2, max_size=5))
def test_a_path_keeps_an_address(scheme: str, parts: list[str]) -> None:
    address = f"{scheme}host/{'/'.join(parts)}"
    assert address_of(Path(address)) == address
    assert address_of(Path("/data/set") / address) == address
    assert address_of(Path(scheme + "host") / "/".join(parts)) == address


@pytest.mark.parametrize("path", ["a/b.jpg", "/data/c:/x.jpg", "https", "s3/x", "ftp://h/x.jpg"])
def test_other_paths_are_files_of_this_machine(path: str) -> None:
    assert address_of(Path(path)) is None


@pytest.mark.parametrize(
    ("path", "told"),
    [("photos/new", False), ("C:/photos", False), ("ftp://host/x", True), ("hdfs:/a", True)],
)
def test_addresses_of_another_kind_are_told_what_can_be_read(path: str, told: bool) -> None:
    assert ("nor an address that can be read (http, https, s3, gs)" in absence(Path(path))) is told


@pytest.mark.parametrize("address", SECRETS)
def test_secrets_are_neither_shown_nor_kept_in_paths(address: str) -> None:
    shown = remember(address)
    assert "SECRET" not in shown + brief(Path(shown)) + without_secrets(f"403 for url {address}")
    assert private(shown) == address


@pytest.mark.parametrize("address", SECRETS)
def test_settings_hold_no_secrets(address: str) -> None:
    with pytest.raises(CaptError, match="credentials come from the environment") as caught:
        validate(Data, {"root": address}, "params.yaml")
    assert "SECRET" not in str(caught.value)
    assert validate(Data, {"root": public(address)}, "params.yaml").root == public(address)


@pytest.mark.parametrize(
    "address",
    ["https://", "https://h:port/x", "s3://b/a//x", "s3://b/../x", "s3://b/\x01"],
)
def test_addresses_that_no_path_can_keep(address: str) -> None:
    with pytest.raises(CaptError, match=r"correct it|other names|expected an address"):
        usable(address)


def test_addresses_that_differ_only_in_what_is_not_kept() -> None:
    assert ambiguous(["https://h/a?id=1", "https://h/b?id=2", "https://h/a?id=1"]) is None
    assert ambiguous(["https://h/a?id=1", "https://h/a?id=2"]) == "https://h/a"
