"""What a method can be told about its data before anything is computed from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from capt_core.prompts.shapes import attribute_tree, class_sentences


@dataclass(frozen=True)
class DataFacts:
    """Classes and images of a data set, and what is written about the classes.

    Attributes:
        dataset: its name.
        base: names of the classes that are trained, in class order.
        novel: names of those that are not.
        training_images: of all classes, whose labels are not read.
        descriptions: the table `class_descriptions`; None where a language model may write it.
    """

    dataset: str
    base: Sequence[str]
    novel: Sequence[str]
    training_images: int
    descriptions: pl.DataFrame | None = None

    @property
    def sentences(self) -> Mapping[str, Sequence[str]] | None:
        """`class_sentences`; None where they are not known yet."""
        return None if self.descriptions is None else class_sentences(self.descriptions)

    @property
    def attributes(self) -> Mapping[str, Mapping[str, Sequence[str]]] | None:
        """`attribute_tree`; None where it is not known yet."""
        return None if self.descriptions is None else attribute_tree(self.descriptions)
