"""What is written about classes, in the shape that each method takes it in."""

from __future__ import annotations

from typing import Literal

import polars as pl

from capt_core.data.splits import prompt_name

DescriptionForm = Literal["sentences", "attributes", "pairs"]
"""Of classes by themselves, of their attributes, or against each other."""


def alone(described: pl.DataFrame) -> pl.DataFrame:
    """Rows of the table `class_descriptions` about a class by itself."""
    return described.filter(pl.col("paired_class_id").is_null())


def class_sentences(described: pl.DataFrame) -> dict[str, list[str]]:
    """Whole sentences about each class by itself (CuPL, TAC), by class name.

    Those that speak of an attribute come last. Classes that nothing is written about are left out.
    """
    return _listed(alone(described), pl.col("description"))


def class_phrases(described: pl.DataFrame) -> dict[str, list[str]]:
    """What stands behind ``a photo of a NAME,`` (LwEIB), by class name.

    A phrase without the class's name where one was written, else a whole sentence. Otherwise as
    `class_sentences`.
    """
    return _listed(alone(described), pl.coalesce("phrase", "description"))


def attribute_tree(described: pl.DataFrame) -> dict[str, dict[str, list[str]]]:
    """What is said of each attribute of a class (TAP), by class name and attribute.

    Each text begins with the class or names it, and stands behind ``a photo of a``. Classes that
    nothing is written about by attribute are left out.
    """
    tree: dict[str, dict[str, list[str]]] = {}
    rows = alone(described).filter(pl.col("attribute").is_not_null())
    columns = ("class_name", "attribute", "description", "phrase")
    for name, attribute, sentence, phrase in rows.select(columns).iter_rows():
        said = sentence if phrase is None else f"{prompt_name(name)}, {phrase}"
        tree.setdefault(name, {}).setdefault(attribute, []).append(said)
    return tree


def _listed(rows: pl.DataFrame, text: pl.Expr) -> dict[str, list[str]]:
    """Texts of rows by class name, in their order."""
    found: dict[str, list[str]] = {}
    for name, said in rows.select("class_name", text.alias("text")).iter_rows():
        found.setdefault(name, []).append(said)
    return found
