"""Where the prompts of a data set come from, in order: written, answered already, asked for now."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any

import polars as pl

from capt_core.data.dataset import Dataset
from capt_core.params import Backbone, GeneratePrompts
from capt_core.prompts.generation import Written, class_descriptions, missing_prompts
from capt_core.prompts.store import PromptStore, load_store, shipped_store
from capt_core.user_paths import user_path

if TYPE_CHECKING:
    from capt_core.prompts.llm.writing import Progress

NO_STORE = "none"


def shaping_settings(settings: GeneratePrompts) -> dict[str, Any]:
    """Settings that bear on which prompts come out, not on how they are fetched."""
    names = ("provider", "store", "prompts", "model", "instructions")
    return {name: getattr(settings, name) for name in names}


def written_store(settings: GeneratePrompts, dataset: str) -> PromptStore | None:
    """The written store that the settings name, or the shipped one; None if there is none.

    Raises:
        CaptError: as `load_store`.
    """
    if settings.store == NO_STORE:
        return None
    given = settings.store
    file = user_path(given, "generate_prompts.store") if given else shipped_store(dataset)
    return load_store(file, dataset) if file else None


def written_descriptions(prepared: Dataset, settings: GeneratePrompts) -> pl.DataFrame:
    """The table `class_descriptions` of what the written store says of a data set's classes.

    Raises:
        CaptError: as `load_store`.
    """
    store = written_store(settings, prepared.name)
    return class_descriptions(prepared.classes, [store] if store else [])


def available_prompts(
    prepared: Dataset,
    class_pairs: pl.DataFrame,
    settings: GeneratePrompts,
    backbone: Backbone,
    progress: Progress,
    say: Callable[[str], None],
    warn: Callable[[str], None],
    dry_run: bool = False,
) -> list[PromptStore]:
    """Stores of prompts for the pairs, best source first; may ask a language model.

    Args:
        progress: as `writing.Progress`.
        say: called with what was found, asked, and what it cost.
        warn: called for damaged answers that were set aside.
        dry_run: say what asking would take, and ask nothing.

    Raises:
        CaptError: a store is unusable, or asking is impossible or failed.
    """
    if settings.provider == "template" and not dry_run:
        return []
    stores = []
    store = written_store(settings, prepared.name)
    rows = class_pairs.select("class_name", "paired_class", "count").rows()
    if store is not None:
        stores.append(store)
        written = Written(store)
        rows = [row for row in rows if not written.describes(row[0], row[1])]
    if not rows:
        if dry_run:
            say("nothing is to be asked: the written store describes every pair")
        return stores

    from capt_core.prompts.llm import writing
    from capt_core.prompts.llm.reasoning import confused_pairs
    from capt_core.prompts.llm.service import Service, api_key
    from capt_core.prompts.llm.setup import reasoning_for
    from capt_core.prompts.llm.waiting import patience

    reasoning = reasoning_for(prepared, settings, backbone, warn)
    pairs = confused_pairs(rows)
    if dry_run:
        key = api_key()
        with closing(Service(key, settings)) if key else nullcontext() as service:
            with patience(say, lambda: "counting what asking would take"):
                lines = list(writing.estimate(reasoning, pairs, service))
            for line in lines:
                say(line)
        return stores
    with patience(say, lambda: "reading the answers that are there"):
        missing = reasoning.missing(pairs)
    if missing and settings.provider.startswith("anthropic"):
        key = api_key()
        if key is None:
            raise missing_prompts(["/".join(pair.classes) for pair in missing])
        writing.write_prompts(reasoning, pairs, key, progress, say)
    answered = reasoning.written(pairs)
    if answered.pairs:
        stores.append(answered)
    return stores
