"""What artifacts were made with and from, compared with what a stage runs with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from capt_core.artifacts.lineage import Lineage, file_setting, setting_difference, tracing
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.tables import Column, Table, read_table, write_table
from capt_core.artifacts.tensors import read_tensors, write_tensors
from tests.refusals import refusal

ORIGIN = Provenance("d", "images", "clip@1")
NUMBERS = Table(
    "numbers", "count", "numbers.parquet", "One row.", [Column("i", pl.Int64(), "")], key=["i"]
)
SETTINGS = {"fit.method": "clip", "fit.epochs": 2, "mine.pairs": 5, "mine.words": [1, 2]}


class Folder:
    """Three artifacts, each made from the one before: model, numbers, centres."""

    def __init__(self, root: Path) -> None:
        self.model = root / "d" / "model.safetensors"
        self.numbers = root / "d" / "numbers.parquet"
        self.centres = root / "d" / "seed1" / "centres.safetensors"
        self.root = root

    def run(self, command: str, sections: str, settings: Mapping[str, Any]) -> Lineage:
        used = {key: value for key, value in settings.items() if key.startswith(sections)}
        return Lineage(self.root, f"{command} --dataset d", used, settings)

    def fit(self, value: float = 1.0, **settings: Any) -> None:
        with tracing(self.run("fit", "fit.", SETTINGS | settings)):
            write_tensors(self.model, {"w": torch.tensor([value])}, {}, ORIGIN)

    def count(self, **settings: Any) -> None:
        with tracing(self.run("count", "count.", SETTINGS | settings)):
            read_tensors(self.model, "fit", ORIGIN)
            write_table(NUMBERS, pl.DataFrame({"i": [1]}), self.numbers, ORIGIN)

    def mine(self, **settings: Any) -> None:
        with tracing(self.run("mine", "mine.", SETTINGS | settings)):
            read_table(NUMBERS, self.numbers, ORIGIN)
            write_tensors(self.centres, {"c": torch.ones(1)}, {}, ORIGIN)

    def train(self, **settings: Any) -> None:
        with tracing(self.run("train", "train.", SETTINGS | settings)):
            read_tensors(self.centres, "mine", ORIGIN)
            read_tensors(self.model, "fit", ORIGIN)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path)
    made.fit()
    made.count()
    made.mine()
    made.train()
    return made


def test_equal_settings_give_equal_bytes_and_are_accepted(folder: Folder) -> None:
    before = folder.centres.read_bytes()
    folder.fit()
    folder.count()
    folder.mine()
    folder.train()
    assert folder.centres.read_bytes() == before


def test_other_settings_of_what_is_read_are_refused(folder: Folder) -> None:
    folder.fit(**{"fit.epochs": 3})
    message = refusal(folder.count)
    assert message.startswith(f"{folder.model}: made with fit.epochs=3, this run has 2; ")
    assert message.endswith("give --set fit.epochs=3 here, too, or run: capt-stage fit --dataset d")
    folder.count(**{"fit.epochs": 3})


def test_settings_that_only_later_stages_use_invalidate_nothing(folder: Folder) -> None:
    folder.count(**{"mine.pairs": 3})
    folder.mine(**{"mine.pairs": 3})
    folder.train(**{"mine.pairs": 3, "train.epochs": 9})
    assert "made with mine.pairs=3, this run has 5" in refusal(folder.train)


def test_artifacts_of_two_fits_do_not_meet(folder: Folder) -> None:
    folder.fit(2.0)
    # Equal settings, another result: what was made from the old one is behind it.
    message = refusal(folder.train)
    assert message == (
        f"{folder.numbers}: made from another model.safetensors than is there now; "
        "run: capt-stage count --dataset d"
    )
    folder.count()
    assert "made from another numbers.parquet" in refusal(folder.train)
    folder.mine()
    folder.train()


def test_what_is_gone_is_not_compared(folder: Folder) -> None:
    folder.numbers.unlink()
    folder.train()
    folder.numbers.write_bytes(b"PAR1 damaged")
    folder.train()


def test_advice_holds_no_words_of_a_shell(folder: Folder) -> None:
    run = Lineage(folder.root, "fit; rm -r x", {"fit.method": "$(x)"}, SETTINGS)
    with tracing(run):
        write_tensors(folder.model, {"w": torch.ones(1)}, {}, ORIGIN)
    message = refusal(folder.count)
    assert message.endswith("this run has 'clip'; run: capt-stage fit --dataset d")


def test_differences_by_hand() -> None:
    assert setting_difference({}, SETTINGS) is None
    assert setting_difference({"gone.key": 1, "fit.epochs": 2}, SETTINGS) is None
    assert setting_difference({"mine.words": [1, 2]}, SETTINGS) is None
    found = setting_difference({"mine.words": [1]}, SETTINGS)
    assert found == "made with mine.words=[1], this run has [1, 2]"


def test_a_setting_that_names_a_file_is_compared_by_its_content(tmp_path: Path) -> None:
    for name, content in (("one", b"abc"), ("same", b"abc"), ("other", b"abd")):
        (tmp_path / name).write_bytes(content)
    one, same, other = (
        file_setting(str(tmp_path / name), "a.file") for name in ("one", "same", "other")
    )
    # SHA-256 of "abc" begins like this.
    assert one == same == "sha256:ba7816bf8f01"
    assert other != one
    words = setting_difference({"a.file": one}, {"a.file": other})
    assert words is not None
    assert words.endswith("; give --set a.file=FILE with that file here, too, or")
    assert "a.file: " in refusal(file_setting, str(tmp_path / "none"), "a.file")
    unset = setting_difference({"a.file": None}, {"a.file": one})
    assert unset is not None
    assert "give --set a.file=null here" in unset
