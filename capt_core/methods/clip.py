"""Zero-shot CLIP."""

from __future__ import annotations

from capt_core.methods.method import Fitted, Method
from capt_core.methods.task import Task


class Clip(Method):
    """Images are compared with each class's prompt (eq. 1); nothing is fitted."""

    name = "clip"
    label = "CLIP (zero-shot)"
    citation = "Radford et al., ICML 2021"
    needs = frozenset()

    def fit(self, task: Task) -> Fitted:
        return Fitted(self, task.backbone)

    def sees(self, task: Task, fitted: Fitted) -> list[str]:
        return []
