"""The model card: what a model is, what it was trained on, what it saw, what it still confuses."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import yaml

from capt_core.backbone.identity import is_embedded_backbone
from capt_core.backbone.loading import UNTRAINED_WARNING
from capt_core.errors import one_line
from capt_core.methods.trained import TrainedModel

LISTED_CLASSES = 200
LISTED_PAIRS = 20
TEXTURES_WARNING = (
    "The backbone is the tiny CLIP that is embedded in capt-stage for demonstrations. It knows "
    "drawn textures and nothing else: of photographs, this model's answers mean nothing."
)
_MARKS = re.compile(r"([\\`*_{}\[\]|~#])")


@dataclass(frozen=True)
class Mistakes:
    """What a model got wrong on the test images it was evaluated on.

    Attributes:
        images: how many there were.
        wrong: how many of them were taken for another class.
        pairs: columns `true_class`, `taken_for`, `images`; most images first.
    """

    images: int
    wrong: int
    pairs: pl.DataFrame


def mistakes(predictions: pl.DataFrame) -> Mistakes:
    """The errors among test images of a table `predictions`."""
    tested = predictions.filter(split="test")
    wrong = tested.filter(~pl.col("correct"))
    pairs = (
        wrong.group_by("true_class", pl.col("pseudo_label").alias("taken_for"))
        .agg(pl.len().alias("images"))
        .sort("images", "true_class", "taken_for", descending=[True, False, False])
    )
    return Mistakes(len(tested), len(wrong), pairs)


def model_card(
    model: TrainedModel,
    repository: str,
    errors: Mistakes | None,
    made_with: Mapping[str, Any],
    license_: str | None = None,
) -> str:
    """The README of a model's repository, in Markdown with YAML front matter.

    Args:
        model: that it is about.
        repository: ``owner/name``, for the lines that tell how to use it.
        errors: on test images; None where it was not evaluated.
        made_with: settings of the run that trained it, by dotted name, as far as known.
        license_: identifier of a licence; None leaves it to the reader to ask.
    """
    method, backbone = model.fitted.method, model.fitted.backbone
    front = {
        "library_name": "capt-stage",
        "pipeline_tag": "image-classification",
        "tags": ["clip", "open_clip", "few-shot", "confusion-aware-prompt-tuning", model.method],
    } | ({"license": license_} if license_ else {})
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=True, allow_unicode=True)}---",
        f"# {plain(repository.rpartition('/')[2])}",
        *(f"> **Warning.** {warning}" for warning in _warnings(model)),
        f"{plain(method.label)} on a frozen CLIP ({plain(backbone.identity)}), trained to tell "
        f"{len(model.class_names)} classes apart with capt-stage.",
        "## Trained on",
        _bullets(_training(model, made_with)),
        _classes(model.class_names),
        "## What it still confuses",
        _confusions(errors),
        "## Use",
        _use(repository),
    ]
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Text that Markdown and HTML show as it is, on one line."""
    return _MARKS.sub(r"\\\1", html.escape(one_line(text), quote=False))


def _warnings(model: TrainedModel) -> list[str]:
    backbone = model.fitted.backbone
    embedded = [TEXTURES_WARNING] if is_embedded_backbone(backbone.identity) else []
    return embedded + ([UNTRAINED_WARNING] if backbone.untrained else [])


def _training(model: TrainedModel, made_with: Mapping[str, Any]) -> list[str]:
    method, origin = model.fitted.method, model.provenance
    cited = f" ({plain(method.citation)})" if method.citation else ""
    shots = made_with.get("fewshot.shots")
    told = "all training images" if shots == 0 else f"up to {shots} images per class"
    return [
        f"Data set: {plain(origin.dataset)}, {len(model.class_names)} classes"
        + (f", {told}" if isinstance(shots, int) else "")
        + f"; few-shot draw {model.seed}",
        f"Method: {plain(method.label)}{cited}; its settings are in `config.json`",
        f"What training saw beyond few-shot images and their class names: {plain(model.sees)}",
        f"Digest of the data: {plain(origin.dataset_fingerprint) or 'none'}",
    ]


def _classes(names: Sequence[str]) -> str:
    listed = ", ".join(plain(name) for name in names[:LISTED_CLASSES])
    more = len(names) - LISTED_CLASSES
    return f"Classes: {listed}" + (f" and {more} more (`config.json` has all)" if more > 0 else "")


def _confusions(errors: Mistakes | None) -> str:
    if errors is None:
        return "It was not evaluated on test images when this card was written."
    if not errors.images:
        return "There were no test images."
    right = errors.images - errors.wrong
    first = (
        f"Of {errors.images} test images {right} ({right / errors.images:.1%}) were right and "
        f"{errors.wrong} wrong"
    )
    if not errors.wrong:
        return f"{first}."
    rows = [
        f"| {plain(true)} | {plain(taken)} | {count} |"
        for true, taken, count in errors.pairs.head(LISTED_PAIRS).iter_rows()
    ]
    more = errors.pairs[LISTED_PAIRS:]
    rest = f"\n\n{len(more)} more pairs have {more['images'].sum()} images." if len(more) else ""
    head = "| true class | taken for | images |\n|---|---|---|\n"
    return f"{first}, most often:\n\n{head}" + "\n".join(rows) + rest


def _use(repository: str) -> str:
    return f"""`model.safetensors` holds the model and its backbone; nothing in it is run.

```
pip install 'capt-stage[hub]'
capt-stage pull {repository} --out model.safetensors
capt-stage predict model.safetensors PHOTOS --out predictions.csv
```

```python
import capt_core

model = capt_core.load_model("model.safetensors")
print(model.predict(["photo.jpg"]))
```"""


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
