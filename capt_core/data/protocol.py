"""Which classes are trained and tested together: all of them, or a base and a novel half."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from capt_core import params
from capt_core.advice import setting
from capt_core.data.registry import DatasetSpec
from capt_core.errors import CaptError, cut, shown
from capt_core.text import clean_name

ALL_CLASSES = "all_classes"
BASE_TO_NOVEL = "base_to_novel"


def class_groups(spec: DatasetSpec, class_names: Sequence[str], data: params.Data) -> list[str]:
    """`base` (trained) or `novel` (never trained, tested apart) for each class, in class order.

    With ``data.protocol`` not set, images of one's own are `all_classes`, in which every class is
    `base`, and benchmarks `base_to_novel`, as the field measures them: there the first half of the
    classes, rounded up, is `base`, or those that ``data.base_classes`` names.

    Raises:
        CaptError: the protocol cannot work with these classes.
    """
    count = len(class_names)
    if protocol_of(spec, data) == ALL_CLASSES:
        if data.base_classes is not None:
            raise CaptError(
                "data.base_classes: all_classes has no base half; leave it out, or "
                f"{setting('data.protocol', BASE_TO_NOVEL)}"
            )
        return ["base"] * count
    if data.base_classes is None:
        return halves(count)
    base = _known(class_names, data.base_classes)
    if len(base) == count:
        raise CaptError(
            "data.base_classes: names every class, which leaves no novel half; leave some out, "
            "or all, to train every class"
        )
    return ["base" if name in base else "novel" for name in class_names]


def protocol_of(spec: DatasetSpec, data: params.Data) -> str:
    """The protocol that the settings ask for, or that suits the data set."""
    if data.protocol is not None:
        return data.protocol
    own = spec.reader == "own" and data.base_classes is None
    return ALL_CLASSES if own else BASE_TO_NOVEL


def check_groups(name: str, groups: Sequence[str]) -> None:
    """Refuse classes among which nothing that is trained can be confused.

    Raises:
        CaptError: fewer than two classes in the base half, or in all.
    """
    if groups.count("base") >= 2:
        return
    if len(groups) < 2:
        raise CaptError(f"{name}: one class, which nothing can be confused with; add another")
    raise CaptError(
        f"{name}: {len(groups)} classes, of which the base half has only "
        f"{groups.count('base')}, so that nothing can be confused with another; "
        f"{setting('data.protocol', ALL_CLASSES)}, or name two in data.base_classes"
    )


def halves(class_count: int) -> list[str]:
    """`base` for the first ceil(C/2) class ids, `novel` for the rest (the field's rule)."""
    base = (class_count + 1) // 2
    return ["base" if class_id < base else "novel" for class_id in range(class_count)]


def _known(class_names: Sequence[str], wanted: Sequence[str]) -> set[str]:
    base = set(map(clean_name, wanted))
    for unknown in sorted(base.difference(class_names)):
        near = difflib.get_close_matches(unknown, class_names, n=1)
        known = shown(cut(", ".join(class_names), 200), 200)[1:-1]
        hint = f"did you mean {shown(near[0])}?" if near else f"known: {known}"
        raise CaptError(f"data.base_classes: no class is called {shown(unknown)}; {hint}")
    return base
