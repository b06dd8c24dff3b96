"""Data sets opened in memory, without artifacts: a folder of photographs, or a benchmark."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from capt_core.data.dataset import Dataset
from capt_core.data.preparation import Source, draw_proctex, prepare_dataset
from capt_core.data.readers import read_split
from capt_core.data.registry import DATASETS, OWN_TEMPLATE, DatasetSpec
from capt_core.data.splits import SPLITS
from capt_core.errors import CaptError, shown
from capt_core.params import Data, Prepare, check_seed
from capt_core.settings_file import validate
from capt_core.user_paths import user_path

OnBadImage = Literal["error", "quarantine"]


def open_folder(
    root: Path | str,
    *,
    name: str = "images",
    template: str | None = None,
    val_share: float | None = None,
    test_share: float | None = None,
    seed: int = 0,
    base_classes: Sequence[str] | None = None,
    on_bad_image: OnBadImage = "error",
    layout: str = "auto",
    table: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Dataset:
    """List and check a folder of photographs; nothing is written.

    The README describes the layouts ("Your own images"). ``classes.yaml`` in it renames classes.

    Args:
        root: the folder, or the table or split file in it.
        name: of the data set.
        template: prompt with one ``{}`` for the class name; None: that of ``classes.yaml``.
        val_share, test_share: share of each class's images for these splits, if the folder does
            not say which image is in which; None takes the packaged settings' (0.2 and 0.3).
        seed: of that random choice.
        base_classes: names of the classes in group `base`, all others being `novel`; None: all.
        on_bad_image: `error` stops at the first image that cannot be used; `quarantine` leaves
            such images out and warns of them.
        layout, table, image_column, label_column: the settings ``data.layout``, ``data.table``, ...
            that messages name, where more than one reading is possible.

    Raises:
        CaptError: no known layout, a bad image (unless quarantined), a wrong argument.
    """
    user_path(root, "open_folder: root")
    given = {"val_share": val_share, "test_share": test_share}
    values: dict[str, object] = {
        "root": str(root),
        "on_bad_image": on_bad_image,
        "layout": layout,
        "table": table,
        "image_column": image_column,
        "label_column": label_column,
        "base_classes": base_classes if base_classes is None else list(base_classes),
        "split_seed": check_seed(seed, "open_folder: seed"),
        **{key: share for key, share in given.items() if share is not None},
    }
    entry = {"name": name, "reader": "own", "template": template or OWN_TEMPLATE}
    spec = validate(DatasetSpec, entry, str(root))
    data = validate(Data, values, str(root))
    split, image_root = read_split(spec, data)
    split = replace(split, template=template or split.template)
    return _checked(spec, Source(split, image_root), data)


def open_dataset(
    name: str,
    root: Path | str | None = None,
    *,
    folder: Path | str | None = None,
    images: tuple[int, int, int] = (64, 16, 112),
    seed: int = 0,
    on_bad_image: OnBadImage = "error",
) -> Dataset:
    """Open a benchmark by its name, its classes in base and novel halves as the field splits them.

    Args:
        name: such as ``dtd``; ``proctex`` draws the embedded textures.
        root: folder that holds the benchmarks' folders.
        folder: of ``proctex``: takes the images; those drawn into it before are used again.
        images: of ``proctex``: training, validation and test images per class.
        seed: of ``proctex``.
        on_bad_image: see `open_folder`.

    Raises:
        CaptError: an unknown name, a part of the layout is missing, a bad image (unless
            quarantined), `root` or `folder` is not given or cannot be used.
    """
    spec = DATASETS.get(name)
    if spec is None:
        hint = _suggestion(name, list(DATASETS))
        raise CaptError(
            f"unknown data set {shown(name)} (open_folder reads your own images); {hint}"
        )
    if spec.reader == "proctex":
        if folder is None:
            raise CaptError("proctex: give the argument folder, into which its images are drawn")
        if len(list(images)) != len(SPLITS):
            raise CaptError(f"proctex: images: expected three numbers, found {shown(images)}")
        seed = check_seed(seed, "proctex: seed")
        counts = dict(zip(SPLITS, images, strict=True))
        validate(Prepare, {f"proctex_{part}": count for part, count in counts.items()}, name)
        named = "-".join(map(str, ("proctex", seed, *images)))
        target = user_path(folder, "proctex: folder") / named
        split = draw_proctex(target, counts, seed, keep=True)
        return _checked(spec, Source(split, target), Data())
    if root is None:
        raise CaptError(f"{name}: give the argument root, the folder that holds {spec.folder}/")
    data = validate(Data, {"root": str(root), "on_bad_image": on_bad_image}, name)
    return _checked(spec, Source(*read_split(spec, data)), data)


def _suggestion(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f"did you mean {shown(near[0])}?"
    return f"known: {shown(', '.join(known), 200)[1:-1]}"


def _checked(spec: DatasetSpec, source: Source, data: Data) -> Dataset:
    prepared = prepare_dataset(spec, source, data, "decode")
    if len(prepared.rejected):
        first = ": ".join(prepared.rejected.select("path", "reason").row(0))
        count = f"{spec.name}: {len(prepared.rejected)} images are left out"
        warnings.warn(f"{count} ({first}, ...)", stacklevel=3)
    return prepared.dataset
