"""CLIP with the written difference prompts of confused pairs in its class texts, not trained."""

from __future__ import annotations

from capt_core.methods.descriptions import Describe, described_vectors, names_seen
from capt_core.methods.method import Fitted, Method, Need
from capt_core.methods.task import Task
from capt_core.settings_file import Section, packaged


class ClipPromptsSettings(Section, path="methods.clip_prompts"):
    """The section ``methods.clip_prompts``."""

    difference_weight: float = packaged(ge=0, le=1e6)
    describe: Describe = packaged()


class ClipPrompts(Method):
    """What the prompts alone are worth: CAPT's class texts on the frozen model."""

    name = "clip_prompts"
    label = "CLIP with difference prompts"
    citation = "Radford et al., ICML 2021"
    needs = frozenset({Need.DESCRIPTIONS})
    Settings = ClipPromptsSettings

    @property
    def described_by_name(self) -> float:
        weight: float = self.settings.difference_weight
        return weight if self.settings.describe == "all" else 0.0

    def fit(self, task: Task) -> Fitted:
        plain = Fitted(self, task.backbone)
        settings = self.settings
        vectors = described_vectors(task, plain, settings.difference_weight, settings.describe)
        return Fitted(self, task.backbone, vectors)

    def sees(self, task: Task, fitted: Fitted) -> list[str]:
        return fitted.seen_in_texts() + names_seen(task, fitted)
