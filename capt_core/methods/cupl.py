"""Descriptions of classes in place of their prompts (CuPL: Pratt et al., ICCV 2023)."""

from __future__ import annotations

from capt_core.errors import CaptError
from capt_core.methods.data_facts import DataFacts
from capt_core.methods.descriptions import described_groups, description_vectors
from capt_core.methods.method import Fitted, Method, Need, undescribed
from capt_core.methods.task import Task


class CuPL(Method):
    """Images are compared with the mean text feature of a class's descriptions; no training.

    Descriptions are those of the prompt store or of the language model. A class without any, which
    may be a novel one, is compared with its prompt.
    """

    name = "cupl"
    label = "CuPL"
    citation = "Pratt et al., ICCV 2023"
    needs = frozenset({Need.CLASS_DESCRIPTIONS})

    def check_data(self, data: DataFacts) -> None:
        super().check_data(data)
        if data.sentences is not None and not data.sentences:
            raise CaptError(undescribed(self.name, data.dataset, "sentences about single classes"))

    def fit(self, task: Task) -> Fitted:
        vectors = description_vectors(task)
        names = task.dataset.class_names
        for group in ("base", "novel"):
            ids = task.dataset.class_ids(group)
            found = sum(names[class_id] in vectors for class_id in ids)
            task.reporter.say(f"class texts: {found} of {len(ids)} {group} classes described")
        return Fitted(self, task.backbone, vectors)

    def sees(self, task: Task, fitted: Fitted) -> list[str]:
        return described_groups(task, fitted.vector_names, "descriptions")
