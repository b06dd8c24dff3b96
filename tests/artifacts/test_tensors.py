"""Tensors on disk."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from capt_core.artifacts.features import read_prompt_centres
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.tensors import read_tensors, write_tensors
from tests.refusals import refusal

ORIGIN = Provenance("dtd", "images", "backbone", "settings")
TENSORS = {"b": torch.arange(3.0), "a": torch.tensor(2)}


def test_tensors_and_facts_come_back_and_bytes_repeat(tmp_path: Path) -> None:
    facts = {"method": "capt", "shape": {"kernel_size": 3}}
    for name in ("one", "two"):
        write_tensors(tmp_path / name, TENSORS, facts, ORIGIN)
    saved = read_tensors(tmp_path / "one", "train", ORIGIN)
    assert saved.facts == facts
    assert saved.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(saved.tensors[name], value) for name, value in TENSORS.items())
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        (Provenance("eurosat", "images", "backbone"), "made for data set 'dtd'"),
        (Provenance("dtd", "others", "backbone"), "other images or classes"),
        (Provenance("dtd", "images", "another"), "another backbone"),
    ],
)
def test_foreign_tensors_are_refused(tmp_path: Path, origin: Provenance, words: str) -> None:
    write_tensors(tmp_path / "model", TENSORS, {}, ORIGIN)
    message = refusal(read_tensors, tmp_path / "model", "train", origin)
    assert words in message
    assert f"run: capt-stage train --dataset {origin.dataset}" in message


def test_missing_damaged_and_unknown_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model"
    assert "missing; run: capt-stage train" in refusal(read_tensors, path, "train", ORIGIN)
    write_tensors(path, TENSORS, {}, ORIGIN)
    path.write_bytes(path.read_bytes()[:40])
    assert re.search("damaged|not a readable", refusal(read_tensors, path, "train", ORIGIN))
    save_file(TENSORS, path)
    assert "not written by this project" in refusal(read_tensors, path, "train", ORIGIN)


def test_one_flipped_bit_anywhere_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "model"
    write_tensors(path, TENSORS, {"method": "capt"}, ORIGIN)
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytes([whole[place] ^ 1 << place % 8])
        path.write_bytes(whole[:place] + changed + whole[place + 1 :])
        assert re.search(
            "damaged|not a readable safetensors file|not written by this project",
            refusal(read_tensors, path, "train", ORIGIN),
        ), place


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1j])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, value: complex) -> None:
    write_tensors(tmp_path / "model", {"weight": torch.tensor([1.0, value])}, {}, ORIGIN)
    message = refusal(read_tensors, tmp_path / "model", "train", ORIGIN)
    assert (
        "'weight' holds numbers that are not finite or not real; run: capt-stage train" in message
    )


@pytest.mark.parametrize(
    "centres",
    [
        {"commonality": torch.eye(2)},
        {"commonality": torch.eye(2), "difference": torch.eye(3)},
        {"commonality": torch.eye(2), "difference": torch.zeros(2)},
        {"commonality": torch.eye(2), "difference": torch.eye(2, dtype=torch.int64)},
    ],
)
def test_prompt_centres_of_other_names_and_shapes_are_refused(
    tmp_path: Path, centres: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "centres"
    write_tensors(path, centres, {}, ORIGIN)
    message = refusal(read_prompt_centres, path, ORIGIN)
    assert "holds no prompt centres; run: capt-stage cluster-prompts --dataset dtd" in message
    both = {"commonality": torch.eye(2), "difference": torch.eye(2)[:1]}
    write_tensors(path, both, {}, ORIGIN)
    assert read_prompt_centres(path, ORIGIN).keys() == both.keys()
