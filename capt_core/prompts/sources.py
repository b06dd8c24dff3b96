"""Where the prompts of a data set come from, in order: written, answered already, asked for now."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any

import polars as pl

from capt_core.data.dataset import Dataset
from capt_core.errors import CaptError
from capt_core.params import Backbone, GeneratePrompts
from capt_core.prompts.exchange import some_of
from capt_core.prompts.generation import Written, class_descriptions, missing_prompts
from capt_core.prompts.shapes import DescriptionForm, attribute_tree, class_sentences
from capt_core.prompts.store import PromptStore, load_store, shipped_store
from capt_core.prompts.texts import words_of
from capt_core.user_paths import user_path

if TYPE_CHECKING:
    from capt_core.prompts.llm.service import Service
    from capt_core.prompts.llm.writing import Progress

NO_STORE = "none"


def shaping_settings(settings: GeneratePrompts) -> dict[str, Any]:
    """Settings that bear on which prompts come out, not on how they are fetched."""
    names = ("provider", "store", "prompts", "attributes", "sentences", "model", "instructions")
    return {name: getattr(settings, name) for name in names}


def written_store(settings: GeneratePrompts, dataset: str) -> PromptStore | None:
    """The written store that the settings name, or the shipped one; None if there is none.

    Where the package ships another edition of the given name, it is that, and else a file.

    Raises:
        CaptError: as `load_store`.
    """
    if settings.store == NO_STORE:
        return None
    file = shipped_store(dataset, settings.store or "")
    if file is None and settings.store:
        file = user_path(settings.store, "generate_prompts.store")
    return load_store(file, dataset) if file else None


def written_descriptions(
    settings: GeneratePrompts, dataset: str, classes: pl.DataFrame
) -> pl.DataFrame:
    """The table `class_descriptions` as far as the written store goes.

    Args:
        settings: that name the store.
        dataset: name of the data set.
        classes: the table `classes`.

    Raises:
        CaptError: as `load_store`.
    """
    store = written_store(settings, dataset)
    return class_descriptions(classes, [] if store is None else [store])


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
    from capt_core.prompts.llm.service import api_key
    from capt_core.prompts.llm.setup import reasoning_for
    from capt_core.prompts.llm.waiting import patience

    reasoning = reasoning_for(prepared, settings, backbone, warn)
    pairs = confused_pairs(rows)
    if dry_run:
        _tell(lambda service: writing.estimate(reasoning, pairs, service), settings, say)
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


def available_descriptions(
    prepared: Dataset,
    forms: Collection[DescriptionForm],
    settings: GeneratePrompts,
    backbone: Backbone,
    progress: Progress,
    say: Callable[[str], None],
    warn: Callable[[str], None],
    dry_run: bool = False,
) -> list[PromptStore]:
    """Stores of what is written about single classes, best source first; may ask a language model.

    What it has answered before is taken in any case; it is asked, about novel classes by their
    names, where a method needs what no store has.

    Args:
        forms: in which methods take descriptions; none asks nothing.
        dry_run: say what asking would take, and ask nothing.
        settings, backbone, progress, say, warn: as in `available_prompts`.

    Raises:
        CaptError: as `available_prompts`.
    """
    if settings.provider == "template" and not dry_run:
        return []
    written = written_store(settings, prepared.name)
    stores = [] if written is None else [written]
    asks = settings.provider.startswith("anthropic") or dry_run

    from capt_core.prompts.llm import writing
    from capt_core.prompts.llm.service import api_key
    from capt_core.prompts.llm.setup import answers_root, describing_for
    from capt_core.prompts.llm.waiting import patience

    needed = _undescribed(prepared.classes, forms, written) if asks else []
    if not needed and not answers_root(settings).is_dir():
        return stores
    attributes = asked_attributes(written, settings)
    describing = describing_for(prepared, settings, backbone, warn, attributes)
    if dry_run:
        if needed:
            _tell(
                lambda service: writing.estimate_descriptions(describing, needed, service),
                settings,
                say,
            )
        return stores
    with patience(say, lambda: "reading the answers that are there"):
        missing = describing.missing(needed)
    if missing:
        key = api_key()
        if key is None:
            raise _missing_descriptions(missing)
        writing.write_descriptions(describing, needed, key, progress, say)
    answered = describing.written(prepared.class_names)
    return [*stores, answered] if answered.class_prompts else stores


def _undescribed(
    classes: pl.DataFrame, forms: Collection[DescriptionForm], written: PromptStore | None
) -> list[str]:
    """Classes about which a store lacks what methods take in some forms."""
    table = class_descriptions(classes, [] if written is None else [written])
    described: Mapping[DescriptionForm, Collection[str]] = {
        "sentences": class_sentences(table),
        "attributes": attribute_tree(table),
    }
    found = [names for form, names in described.items() if form in forms]
    return [name for name in classes["class_name"] if any(name not in each for each in found)]


def asked_attributes(written: PromptStore | None, settings: GeneratePrompts) -> list[str]:
    """Attributes that classes are described by: those of the written store, where it has any.

    Every class of a data set must be described by the same ones.
    """
    names: dict[tuple[str, ...], str] = {}
    for prompts in () if written is None else written.class_prompts.values():
        for attribute in prompts.by_attribute:
            names.setdefault(words_of(attribute), attribute)
    return [name for words, name in names.items() if words] or settings.attributes


def _missing_descriptions(names: Sequence[str]) -> CaptError:
    return CaptError(
        f"nothing is written about {len(names)} classes that a method needs described "
        f"({some_of(names)}); have it written by a language model (export ANTHROPIC_API_KEY=...), "
        "or name a file of your own in generate_prompts.store (capt-stage prompts import makes one "
        "of other formats)"
    )


def _tell(
    lines_of: Callable[[Service | None], Iterable[str]],
    settings: GeneratePrompts,
    say: Callable[[str], None],
) -> None:
    """Say what asking would take, counted by the service where there is a key for it."""
    from capt_core.prompts.llm.service import Service, api_key
    from capt_core.prompts.llm.waiting import patience

    key = api_key()
    with closing(Service(key, settings)) if key else nullcontext() as service:
        with patience(say, lambda: "counting what asking would take"):
            lines = list(lines_of(service))
        for line in lines:
            say(line)
