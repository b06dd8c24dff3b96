"""Which methods can be used with a backbone and on a data set, told before anything is fitted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import polars as pl

from capt_core import params
from capt_core.artifacts.layout import Layout
from capt_core.backbone.architecture import outline
from capt_core.data.dataset import load_dataset
from capt_core.errors import CaptError
from capt_core.methods.data_facts import DataFacts
from capt_core.methods.fitting import base_method
from capt_core.methods.method import Method, Need, undescribed
from capt_core.methods.registry import method_class, method_names
from capt_core.prompts.generation import class_descriptions
from capt_core.prompts.llm.setup import answers_root
from capt_core.prompts.sources import written_descriptions, written_store


def unsuited(methods: Iterable[Method], backbone: params.Backbone) -> Iterator[str]:
    """One line for each method that the backbone cannot be used with, saying why and what can.

    Args:
        methods: with their settings.
        backbone: of a known name; its weights are not needed.

    Raises:
        CaptError: unknown backbone.
    """
    clip = outline(backbone.name)
    for method in methods:
        try:
            method.check_clip(clip)
        except CaptError as error:
            able = [name for name in method_names() if _suits(method_class(name)(), clip)]
            with_it = f"; with {backbone.name}, {', '.join(able)} can be used" if able else ""
            yield f"{method.name} cannot be used with backbone {backbone.name}: {error}{with_it}"


def unstartable(methods: Iterable[Method], base: Method) -> Iterator[str]:
    """One line for each method that cannot start from a base model of some method, saying why.

    Or a single one, where that method can be no base model at all.
    """
    try:
        base_method(base.name, "fit_teacher.method")
    except CaptError as error:
        yield str(error)
        return
    for method in methods:
        if Need.BASE_MODEL not in method.needs:
            continue
        try:
            method.check_base(base)
        except CaptError as error:
            yield str(error)


def unfit_data(methods: Iterable[Method], data: DataFacts) -> Iterator[str]:
    """One line for each method that the data set does not do for, saying what it needs."""
    for method in methods:
        try:
            method.check_data(data)
        except CaptError as error:
            yield str(error)


def data_facts(
    dataset: str, classes: pl.DataFrame, training_images: int, settings: params.GeneratePrompts
) -> DataFacts:
    """What methods can be told about a data set before sentences are asked for.

    Args:
        dataset: its name.
        classes: `class_id`, `class_name`, `template` and `group`, as in the table `classes`.
        training_images: how many, of all classes.
        settings: where sentences come from.

    Raises:
        CaptError: a store that cannot be read.
    """
    names = dict(classes.sort("class_id").group_by("group").agg("class_name").iter_rows())
    written = None
    if settings.provider == "template":
        written = class_descriptions(classes, [])
    elif not _may_be_asked(settings):
        written = written_descriptions(settings, dataset, classes)
    return DataFacts(
        dataset, names.get("base", []), names.get("novel", []), training_images, written
    )


def prepared_facts(layout: Layout, settings: params.GeneratePrompts) -> DataFacts:
    """`data_facts` of a prepared data set.

    Raises:
        CaptError: it is not prepared, or a store cannot be read.
    """
    dataset = load_dataset(layout)
    return data_facts(
        dataset.name,
        dataset.classes,
        dataset.samples.filter(pl.col("split") == "train").height,
        settings,
    )


def check_described(methods: Iterable[str], settings: params.GeneratePrompts, dataset: str) -> None:
    """Refuse methods that need sentences about the classes where none can come from anywhere.

    Args:
        methods: names.
        settings: where sentences come from.
        dataset: name of the data set.

    Raises:
        CaptError: names the method, and what to give.
    """
    written = settings.provider != "template" and written_store(settings, dataset) is not None
    if written or _may_be_asked(settings):
        return
    for name in methods:
        if Need.CLASS_DESCRIPTIONS in method_class(name).needs:
            raise CaptError(undescribed(name, dataset))


def _may_be_asked(settings: params.GeneratePrompts) -> bool:
    """Whether sentences may come from a language model, by the settings or from earlier on."""
    asked = settings.provider.startswith("anthropic")
    return asked or (settings.provider != "template" and answers_root(settings).is_dir())


def _suits(method: Method, clip: object) -> bool:
    try:
        method.check_clip(clip)
    except CaptError:
        return False
    return True
