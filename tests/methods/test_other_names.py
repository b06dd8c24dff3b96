"""A trained model among classes that it knows the names of alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from capt_core.errors import CaptError
from capt_core.methods.classes import Classes
from capt_core.methods.fitting import fit_method
from capt_core.methods.other_names import among
from capt_core.methods.task import Task
from capt_core.methods.trained import TrainedModel
from capt_core.prompts.store import PromptStore
from capt_core.reporter import Reporter
from tests.methods.toy_task import quick

NEW = ("woven", "striped", "lined")
STORE = PromptStore.model_validate(
    {
        "schema_version": 1,
        "dataset": "toy",
        "domain": "textures",
        "source": "somebody",
        "classes": {},
        "pairs": [
            {
                "classes": ["striped", "lined"],
                "reason": "",
                "difference": {"striped": ["a photo of bands"], "lined": ["a photo of threads"]},
            }
        ],
    }
)


@pytest.fixture
def fitted(task: Task) -> Callable[[str], TrainedModel]:
    return lambda describe: fit_method(quick("clip_prompts", describe=describe), task)


def test_the_store_describes_other_names(fitted: Callable[[str], TrainedModel]) -> None:
    model, said = fitted("all"), list[str]()
    other = among(model, NEW, STORE, Reporter(say=said.append))
    texts = other.fitted.class_texts(other.classes)
    plain = model.fitted.class_texts(other.classes)
    assert torch.equal(texts[0], plain[0])  # the model's own
    assert not torch.allclose(texts[1:], plain[1:])
    assert said == ["class texts: 3 of 3 classes described"]
    assert model.fitted.vector_names == ("woven", "cracked")
    assert other.calibration is None
    assert other.class_names == NEW
    assert other.scorer(texts).argmax(dim=1).tolist() == [0, 1, 2]


def test_what_is_not_described_keeps_its_prompt(fitted: Callable[[str], TrainedModel]) -> None:
    said = list[str]()
    other = among(fitted("all"), ("striped", "wet"), STORE, Reporter(say=said.append))
    assert said[0] == "class texts: 0 of 2 classes described"
    assert "striped, wet" in said[1]
    assert other.fitted.vector_names == ("woven", "cracked")
    plain = other.fitted.start.class_texts(Classes.named(("striped", "wet"), "a photo of a {}."))
    assert torch.equal(other.fitted.class_texts(other.classes), plain)
    # A model without `describe: all` asks nothing and says nothing.
    silent = among(fitted("base"), NEW, STORE, Reporter(say=said.append))
    assert silent.fitted.vector_names == ("woven", "cracked")
    assert len(said) == 2


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "none"),
        (("one",), "single"),
        (("a", "b", "a"), "'a' is given twice"),
        (("a", " "), "em"),
    ],
)
def test_names_that_are_no_choice(
    names: tuple[str, ...], said: str, fitted: Callable[[str], TrainedModel]
) -> None:
    with pytest.raises(CaptError, match=said):
        among(fitted("all"), names)
