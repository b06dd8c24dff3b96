"""From class-level confusion pairs to commonality and difference prompts."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from capt_core.artifacts.schemas import PROMPTS
from capt_core.data.splits import spoken_name
from capt_core.errors import CaptError
from capt_core.prompts.store import PromptStore

COMMONALITY = "commonality"
DIFFERENCE = "difference"
TEMPLATE_SOURCE = "template"

_TEMPLATES = {
    COMMONALITY: ("{photo_a} that could be taken for {b}", "{photo_a} or {b}, which look alike"),
    DIFFERENCE: ("{photo_a}, not {b}", "{photo_a}, unlike {b}"),
}


def pair_prompts(
    class_pairs: pl.DataFrame,
    templates: dict[str, str],
    store: PromptStore | None,
    provider: str,
    count: int,
) -> pl.DataFrame:
    """Prompts for every class-level pair.

    Args:
        class_pairs: the table `class_pairs`.
        templates: class name to its hand-written prompt template.
        store: written prompts, None when there are none for the data set.
        provider: `store`, `template`, or `store_or_template` (written where there are any).
        count: prompts per kind and pair; a store that holds fewer gives what it has.

    Returns:
        Rows as in the table `prompts`; `source` is the store's source or `template`.

    Raises:
        CaptError: `store` is asked for and pairs are missing from it.
    """
    written = store.by_pair() if store and provider != "template" else {}
    missing: list[str] = []
    rows = []
    columns = ("class_id", "class_name", "paired_class_id", "paired_class")
    for class_id, name, paired_id, paired in class_pairs.select(columns).iter_rows():
        entry = written.get(frozenset((name, paired)))
        if entry is None and provider == "store":
            missing.append(f"{name}/{paired}")
            continue
        for kind in (COMMONALITY, DIFFERENCE):
            if entry is not None and store is not None:
                texts = entry.commonality if kind == COMMONALITY else entry.difference[name]
                source = store.source
            else:
                texts = list(template_prompts(kind, templates[name], name, paired))
                source = TEMPLATE_SOURCE
            for position, text in enumerate(texts[:count]):
                rows.append((class_id, name, paired_id, paired, kind, position, text, source))
    if missing:
        raise CaptError(
            f"no stored prompts for {len(missing)} pairs ({', '.join(missing[:5])}...); write them "
            "into a file named by generate_prompts.store, or set "
            "generate_prompts.provider=store_or_template"
        )
    return pl.DataFrame(rows, schema=dict(PROMPTS.columns), orient="row")


def template_prompts(kind: str, template: str, name: str, paired: str) -> Iterator[str]:
    """Deterministic prompts that name both classes and describe nothing."""
    photo = template.format(spoken_name(name)).rstrip(".")
    for pattern in _TEMPLATES[kind]:
        yield pattern.format(photo_a=photo, b=spoken_name(paired))
