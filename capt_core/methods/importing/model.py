"""A checkpoint of another program as a fitted method, with what was found out about it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capt_core.artifacts.files import file_digest
from capt_core.backbone.loading import Backbone
from capt_core.data.dataset import Dataset
from capt_core.errors import CaptError, cut, shown
from capt_core.methods.classes import Classes
from capt_core.methods.importing.checkpoint import Checkpoint, open_checkpoint
from capt_core.methods.importing.frozen import compare_copies
from capt_core.methods.importing.layouts import (
    FROZEN_IMAGE,
    LAYOUTS,
    Learned,
    method_of,
    prefix_of,
)
from capt_core.methods.importing.texts import (
    TrainedTexts,
    examples,
    left_over,
    trained_texts,
)
from capt_core.methods.method import Fitted, Method
from capt_core.methods.registry import method_class
from capt_core.methods.trained import TrainedModel
from capt_core.params import settings_hash
from capt_core.reporter import announced
from capt_core.settings_file import validate

UNKNOWN_IMAGES = "an imported checkpoint, trained on images unknown here"
NOVEL_NAMES = "names of novel classes (imported checkpoint)"


@dataclass(frozen=True)
class Imported:
    """A fitted method from a checkpoint.

    Attributes:
        fitted: on the backbone's device, in evaluation mode.
        summary: what was learned, in words.
        digest: of the file.
        classes: places, among the class names asked for, of those it was trained on; None for one
            that is none of them; empty if the file does not tell.
        taken: names of the tensors that the method is made of, and of the texts.
        compared: how many copies of frozen weights equal the backbone's.
        unused: tensors that are left aside, by the beginning of their names, with their number.
        warnings: lines that the user should read.
    """

    fitted: Fitted
    summary: str
    digest: str
    classes: Sequence[int | None]
    taken: Sequence[str]
    compared: int
    unused: Mapping[str, int]
    warnings: Sequence[str] = field(default_factory=tuple)


@announced(lambda path: f"reading {path.name}")
def checkpoint_method(path: Path) -> str:
    """The method that a checkpoint was trained with, told by the names of its tensors.

    Raises:
        CaptError: no checkpoint, or one of a method that is not read.
    """
    with open_checkpoint(path) as checkpoint:
        return method_of(checkpoint)


@announced(lambda path, method, backbone: f"reading {path.name}")
def check_checkpoint(path: Path, method: Method, backbone: Backbone) -> str:
    """What a checkpoint holds, in words, after all checks that need no data set.

    Raises:
        CaptError: as `read_checkpoint`, classes aside.
    """
    with open_checkpoint(path) as checkpoint:
        learned, _, compared = _taken_apart(checkpoint, method, backbone)
        _unused(checkpoint, compared)
        return f"{method.label}: {learned.summary}"


@announced(lambda path, method, backbone, names: f"reading {path.name}")
def read_checkpoint(
    path: Path, method: Method, backbone: Backbone, names: Mapping[str, str]
) -> Imported:
    """Read a checkpoint as a fitted method.

    Args:
        path: file that Dassl wrote (``model.pth.tar-50``), or its state dict alone.
        method: with settings; those that follow from the file take its values.
        backbone: that it was trained on; copies of frozen weights and embeddings are compared.
        names: classes it may have been trained on, by name, as they stand in prompts.

    Raises:
        CaptError: damaged, unsafe, of another method or backbone; or a class-specific context of
            other classes.
    """
    with open_checkpoint(path) as checkpoint:
        learned, texts, compared = _taken_apart(checkpoint, method, backbone)
        unused = _unused(checkpoint, compared)
        spoken = list(names.values())
        words = _words(checkpoint, learned, texts, method, spoken, backbone)
        keys = {**learned.settings, **({"context_init": words} if learned.words else {})}
        values = {**method.settings.model_dump(), **keys}
        configured = type(method)(
            validate(method.Settings, values, checkpoint.where, f"methods.{method.name}.")
        )
        skip = len(left_over(words, learned.length, backbone) or ())
        places = [] if texts is None else texts.classes(spoken, words, learned.length, backbone)
        own = _own_names(checkpoint, learned, texts, places, list(names), backbone)
        fitted = learned.fitted(configured, backbone, own).to(backbone.device).eval()
        return Imported(
            fitted,
            learned.summary,
            file_digest(path),
            places,
            tuple(checkpoint.taken),
            len(compared),
            unused,
            tuple(_warnings(texts, places, skip, compared, backbone)),
        )


def import_checkpoint(
    path: Path | str,
    dataset: Dataset,
    backbone: Backbone,
    method: str | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    seed: int = 1,
) -> TrainedModel:
    """A checkpoint of CoOp, MaPLe or PromptSRC as the Dassl toolbox writes it, as a trained model.

    No code of the file is run. The method, the number of vectors, the layers and, for PromptSRC
    and MaPLe, the frozen weights are those of the file; they are compared with the backbone.

    Args:
        path: such as ``model.pth.tar-50``.
        dataset: classes that the model will choose among.
        backbone: that it was trained on.
        method: ``coop``, ``maple`` or ``promptsrc``; None tells it by the names of the tensors.
        settings: keys of the section ``methods.<method>`` that no file tells, such as CoOp's
            ``class_token_position``.
        seed: of the few-shot draw that the model stands for.

    Raises:
        CaptError: damaged or unsafe file, another method or backbone, or a class-specific context
            of other classes.
    """
    path = Path(path).expanduser()
    name = method or checkpoint_method(path)
    found = method_class(name)
    values = {**found.Settings().model_dump(), **(settings or {})}
    section = validate(found.Settings, values, "settings", f"methods.{name}.")
    return imported_model(
        read_checkpoint(path, found(section), backbone, class_names(dataset)), dataset, seed
    )


def findings(imported: Imported, dataset: Dataset) -> list[str]:
    """Lines for people: what was learned, on which classes, and what was compared or left aside."""
    lines = [f"{imported.fitted.method.label}: {imported.summary}; sha256 {imported.digest}"]
    known = {place for place in imported.classes if place is not None}
    if known:
        counts = {group: len(known & set(dataset.class_ids(group))) for group in ("base", "novel")}
        of = [f"{count} {group}" for group, count in counts.items() if count]
        lines.append(f"trained on {' and '.join(of)} classes of {dataset.name}")
    if imported.compared:
        lines.append(f"{imported.compared} copies of frozen weights equal the backbone's")
    if imported.unused:
        each = (f"{name}... ({count})" for name, count in imported.unused.items())
        lines.append(f"left unused: {', '.join(each)}")
    return lines


def imported_model(imported: Imported, dataset: Dataset, seed: int) -> TrainedModel:
    """A trained model of what was read, for a data set's classes."""
    fitted = imported.fitted
    novel = set(dataset.class_ids("novel"))
    seen = [UNKNOWN_IMAGES] + [NOVEL_NAMES] * any(place in novel for place in imported.classes)
    fitted.seen_before = tuple(seen)
    used = settings_hash(fitted.method.settings, seed, imported.digest)
    origin = dataset.provenance(fitted.backbone.identity, used)
    return TrainedModel(fitted, Classes.of(dataset), "; ".join(seen), seed, origin)


def class_names(dataset: Dataset) -> dict[str, str]:
    """Names of a data set's classes, each with how it stands in prompts."""
    return dict(zip(dataset.class_names, dataset.prompt_names, strict=True))


def _taken_apart(
    checkpoint: Checkpoint, method: Method, backbone: Backbone
) -> tuple[Learned, TrainedTexts | None, list[str]]:
    """What was learned, the texts it was learned with, and the names of frozen copies."""
    found = method_of(checkpoint)
    if found != method.name:
        raise CaptError(
            f"{checkpoint.where}: was trained with {found}, not {method.name}; "
            f"set fit_teacher.method={found}"
        )
    method.check_clip(backbone.clip)
    learned = LAYOUTS[found](checkpoint, backbone)
    texts = trained_texts(checkpoint, prefix_of(checkpoint), learned.length, backbone)
    return learned, texts, compare_copies(checkpoint, backbone)


def _unused(checkpoint: Checkpoint, compared: Sequence[str]) -> dict[str, int]:
    """Tensors that are left aside, by the first two parts of their names.

    Raises:
        CaptError: one of them may have been learned, so that the method is another one.
    """
    known = {*checkpoint.taken, *compared}
    rest = [name for name in checkpoint.tensors if name not in known]
    for name in rest:
        stored = checkpoint.tensors[name]
        if (
            not name.startswith(FROZEN_IMAGE)
            and stored.dtype.is_floating_point
            and math.prod(stored.shape) > 1
        ):
            raise CaptError(
                f"{checkpoint.where}: holds {shown(name)}, for which the method has no place; give "
                "a checkpoint of CoOp, MaPLe or PromptSRC as published, or one without it if it "
                "was not learned"
            )
    return dict(Counter(cut(".".join(name.split(".")[:2])) for name in rest))


def _words(
    checkpoint: Checkpoint,
    learned: Learned,
    texts: TrainedTexts | None,
    method: Method,
    names: Sequence[str],
    backbone: Backbone,
) -> str | None:
    """The words in front of a class name, of which the context replaces the first.

    Those of the settings if the context leaves of them what stands in the file's texts; none if
    nothing stands there.

    Raises:
        CaptError: the texts have other words.
    """
    if not learned.words:
        return None
    words: str | None = method.settings.context_init
    rest = left_over(words, learned.length, backbone)
    if rest is None:  # fewer words than vectors
        words, rest = None, []
    if texts is None:
        return words
    before = texts.words_before(names, backbone)
    if before == rest or (before is None and texts.beginning(rest)):
        return words
    if before == []:
        return None
    raise CaptError(
        f"{checkpoint.where}: behind the context its texts read {examples(texts, [0], backbone)}, "
        f"not as with {shown(words)}; set methods.{method.name}.context_init to the words that it "
        "was trained with"
    )


def _own_names(
    checkpoint: Checkpoint,
    learned: Learned,
    texts: TrainedTexts | None,
    places: Sequence[int | None],
    names: Sequence[str],
    backbone: Backbone,
) -> tuple[str, ...]:
    """Class names of the rows of a class-specific context; none of a shared one.

    Raises:
        CaptError: the file does not tell them, or they are not among the names.
    """
    if not learned.rows:
        return ()
    if texts is None or len(places) != learned.rows:
        raise CaptError(
            f"{checkpoint.where}: contexts of {learned.rows} classes, and texts (token_suffix) of "
            f"{len(places)}; get the file as it was saved, with the text of each class"
        )
    if odd := [row for row, place in enumerate(places) if place is None]:
        raise CaptError(
            f"{checkpoint.where}: {len(odd)} of its {len(places)} classes, each with a context of "
            f"its own, are not in this data set ({examples(texts, odd, backbone)}); rename the "
            "classes as they were in training (classes.yaml), or give a shared context"
        )
    return tuple(names[place] for place in places if place is not None)


def _warnings(
    texts: TrainedTexts | None,
    places: Sequence[int | None],
    skip: int,
    compared: Sequence[str],
    backbone: Backbone,
) -> Iterator[str]:
    if texts is None:
        also = "" if compared else f", nor whether its backbone was {backbone.identity}"
        yield f"the file keeps no class texts: which classes it was trained on is not known{also}"
    elif odd := [row for row, place in enumerate(places) if place is None]:
        yield (
            f"{len(odd)} of the {len(places)} classes it was trained on are not in this data set: "
            f"{examples(texts, odd, backbone, skip)}"
        )
