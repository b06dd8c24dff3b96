"""Classes to choose among: their names, and what they are put into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from capt_core.data.dataset import Dataset
from capt_core.data.splits import prompt_name
from capt_core.errors import CaptError, shown


@dataclass(frozen=True)
class Classes:
    """Classes to choose among, in order.

    Attributes:
        names: unique class names.
        templates: what each name is put into; ``{}`` takes it.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...]

    @staticmethod
    def of(dataset: Dataset) -> Classes:
        """All classes of a data set, by class id."""
        return Classes(tuple(dataset.class_names), tuple(dataset.classes["template"].to_list()))

    @staticmethod
    def named(names: Sequence[str], template: str = "a photo of a {}.") -> Classes:
        """Any class names in one template."""
        return Classes(tuple(names), (template,) * len(names))

    def only(self, positions: Sequence[int]) -> Classes:
        """Those at some positions, in this order."""
        return Classes(
            tuple(self.names[position] for position in positions),
            tuple(self.templates[position] for position in positions),
        )

    @property
    def prompt_names(self) -> list[str]:
        """Names as they stand in a prompt."""
        return [prompt_name(name) for name in self.names]

    @property
    def prompts(self) -> list[str]:
        """The templates filled with the names."""
        pairs = zip(self.templates, self.prompt_names, strict=True)
        return [template.format(name) for template, name in pairs]


def known_rows(names: Sequence[str], classes: Classes, method: str) -> list[int]:
    """Positions of classes among the names that a method was fitted on.

    Raises:
        CaptError: a class is not among them.
    """
    position = {name: row for row, name in enumerate(names)}
    unknown = [name for name in classes.names if name not in position]
    if unknown:
        raise CaptError(
            f"{method} can only tell the classes it was fitted on, {shown(unknown[0])} is none of "
            "them; choose a method that compares images with texts, such as coop or capt"
        )
    return [position[name] for name in classes.names]
