"""A few steps of any registered method are trained and measured."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks.method_steps import Bench, Training, chosen_methods, heading, measure, parse, row
from capt_core.errors import CaptError
from capt_core.learning.loop import Loop
from capt_core.methods import registry
from capt_core.methods.clip_adapter import AdaptedByBottleneck, ClipAdapter
from capt_core.methods.method import Need
from capt_core.methods.task import Task
from tests.refusals import refusal
from tests.toys import draw_photographs

TINY = ("--backbone", "tiny-clip", "--teacher", "tiny-clip", "--classes", "2")


class Particular(ClipAdapter):
    """Starts from a base model that was trained by steps, and has a teacher."""

    name = "particular"
    label = "Particular"
    needs = frozenset({Need.FEATURES, Need.BASE_MODEL, Need.TEACHER})

    def fit(self, task: Task) -> AdaptedByBottleneck:
        assert task.base_model is not None
        assert task.teacher is not None
        if task.base_model.training_run is None:
            raise CaptError("particular: the base model was not trained")
        return super().fit(task)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> argparse.Namespace:
    folder = tmp_path_factory.mktemp("photographs")
    draw_photographs(folder, ["banded", "striped", "lined"])
    return parse([str(folder), *TINY])


@pytest.fixture
def particular(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(registry._registered, "particular", Particular)
    return "particular"


@pytest.mark.parametrize("name", ["coop", "twosfs"])
def test_a_method_is_trained_for_two_steps(
    name: str, options: argparse.Namespace, tmp_path: Path
) -> None:
    original = Loop.fit
    (found,) = Bench(options, tmp_path).train(name)
    assert Loop.fit is original
    assert (found.method, len(found.seconds)) == (name, 2)
    assert found.memory > 0
    assert found.parameters > 0
    assert found.before != found.after


def test_a_method_is_given_what_it_needs(
    particular: str, options: argparse.Namespace, tmp_path: Path
) -> None:
    found = measure(particular, options, tmp_path)
    assert not isinstance(found, str)
    assert [each.method for each in found] == ["particular"]


def test_the_published_batch_takes_as_many_photographs(
    options: argparse.Namespace, tmp_path: Path
) -> None:
    bench = Bench(argparse.Namespace(**{**vars(options), "published": True}), tmp_path)
    assert bench.method_settings("lweib") == {}
    assert bench.shots("lweib") == 8  # batches of 16, two classes
    assert bench.shots("capt") == 8
    assert Bench(options, tmp_path).shots("lweib") == 2
    settings = Bench(options, tmp_path).method_settings("capt")
    assert settings == {"train": {"batch_size": 4}}


def test_too_few_photographs_are_refused(options: argparse.Namespace, tmp_path: Path) -> None:
    bench = Bench(options, tmp_path)
    assert "10 photographs, 11 are used" in refusal(bench.dataset, 9)
    many = argparse.Namespace(**{**vars(options), "classes": 4})
    assert "3 folders of classes, 4 are used" in refusal(Bench(many, tmp_path).dataset, 1)
    nowhere = argparse.Namespace(**{**vars(options), "photographs": tmp_path / "nowhere"})
    assert "nowhere: 0 folders" in str(measure("coop", nowhere, tmp_path))


def test_a_row_leaves_the_first_step_out(options: argparse.Namespace) -> None:
    one = Training("coop", 4, [9.0, 1.0, 3.0], 3 * 2**20, 2048, 2.5, 2.25)
    assert row(one, None) == "| `coop` | 4 | 2.000 |  | 3 | 2,048 | 2.5 | 2.25 |"
    assert "| 2.000 | 0.25 | 3 |" in row(one, 8.0)
    assert heading(options).splitlines()[2].count("|") == row(one, 8.0).count("|")


def test_methods_are_found_in_the_registry(particular: str, options: argparse.Namespace) -> None:
    names = chosen_methods(options)
    assert {particular, "coop", "twosfs", "capt"} <= set(names)
    assert not {"clip", "cupl", "gda", "linear_probe"} & set(names)  # have no steps
    one = argparse.Namespace(**{**vars(options), "method": ["coop"]})
    assert chosen_methods(one) == ["coop"]
    unknown = argparse.Namespace(**{**vars(options), "method": ["clop"]})
    assert "unknown method 'clop'" in refusal(chosen_methods, unknown)
