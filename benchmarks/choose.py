"""Variants beside each other on classes held out of the base classes: how settings are chosen.

    OMP_NUM_THREADS=1 python -m benchmarks.choose --drawing 21 --drawing 22 \\
        --variant rows_none --variant margin --variant margin_permuted --method gda_prompts

Draws the embedded textures anew (with other seeds than the benchmark's, so none of its images
occurs) and keeps the base classes only: no novel class and no test image of the benchmark is looked
at. Four folds of each drawing take some of the families for base and the others for pseudo-novel
classes; the fifth takes all for base classes. Every variant of ``capt_core/ablations.yaml`` that is
named is trained on every fold and seed, with what is mined there; `--method` adds rows that are
fitted with the packaged settings, or with others: `NAME:learning_rate=0.02,interpolation=0.4`.
Printed for each: base accuracy, change of novel accuracy against the frozen model, base errors
corrected and right answers broken, and the paired differences to the first row with their standard
errors over folds and seeds. The errors of the test images themselves, which all rows share, are not
in them. `--output` keeps every single result.

Frozen features are computed once for a drawing, and what the frozen part of the tower makes of its
images once for each place where it ends; `adapter.blocks=0` makes that place the end of the tower.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import torch
import yaml
from torch.nn import functional

import capt_core
from benchmarks.pseudo_novel_folds import FOLDS, SHOTS, drawn_textures, fold_of, nested
from capt_core.artifacts.files import write_text
from capt_core.data.images import image_batches
from capt_core.data.preparation import draw_list
from capt_core.data.protocol import BASE_TO_NOVEL
from capt_core.errors import CaptError, shown
from capt_core.evaluation.metrics import evaluate_predictions
from capt_core.evaluation.predictions import classified
from capt_core.methods.capt.method import FittedCapt
from capt_core.methods.fitting import dataset_features, fit_method, group_scorers
from capt_core.methods.method import Fitted, Method
from capt_core.methods.registry import method_class
from capt_core.methods.task import Task
from capt_core.methods.trained import TrainedModel
from capt_core.mined import Mined, bank_of
from capt_core.params import Settings
from capt_core.settings_file import merge, validate
from capt_core.study import METHOD, variant

DRAWINGS = (21, 22)
MEASURES = {
    "base": "base_accuracy",
    "novel": "novel_accuracy",
    "corrected": "base_correction_rate",
    "broken": "base_broken_rate",
}
"""Columns of a result, and the metric of each, in per cent."""


@dataclass
class Drawing:
    """A drawing's base half with all that its folds share.

    Attributes:
        textures: all thirty classes.
        backbone: frozen.
        features: of the base half's images, unit length, by their sample id in every fold.
        tokens: what the frozen blocks of a tower make of the test images, by how many they are.
    """

    textures: capt_core.Dataset
    backbone: capt_core.Backbone
    features: torch.Tensor
    tokens: dict[int, list[torch.Tensor]] = field(default_factory=dict)

    @staticmethod
    def of(textures: capt_core.Dataset, backbone: capt_core.Backbone) -> Drawing:
        """A drawing with its features."""
        every = fold_of(textures, FOLDS[-1])
        plain = Fitted(method_class("clip")(), backbone)
        ids = every.samples["sample_id"]
        return Drawing(textures, backbone, dataset_features(plain, every, ids, None, None, 128, 2))


@dataclass(frozen=True)
class Case:
    """One few-shot draw of one fold.

    Attributes:
        drawing: that the fold is of.
        families: of its base classes.
        seed: of the draw.
        work: folder for cached views.
    """

    drawing: Drawing
    families: tuple[str, ...]
    seed: int
    work: Path

    def rows(
        self, variants: Sequence[str], methods: Sequence[str], extra: Mapping[str, Any]
    ) -> Iterator[tuple[str, dict[str, float | None]]]:
        """`MEASURES` of every variant of CAPT and of every other method.

        Args:
            variants: names in ``ablations.yaml``.
            methods: names of methods, each with changes of its settings if there are any
                (``NAME:KEY=VALUE,KEY=VALUE``).
            extra: settings of CAPT in all its variants, as nested sections.
        """
        fold, backbone = fold_of(self.drawing.textures, self.families), self.drawing.backbone
        fewshot, features = draw_list(fold, SHOTS, self.seed), self.drawing.features
        task = Task(
            fold,
            fewshot,
            backbone,
            self.seed,
            SHOTS,
            features=lambda: features,
            image_root=fold.image_root,
            work=self.work,
        )
        clip = fit_method(method_class("clip")(), task)
        drawn = task.few_shot_rows()
        found = bank_of(clip, fold, drawn, features[drawn["sample_id"].to_list()])
        ids = fold.samples.filter(split="test")["sample_id"]
        before = _answers(clip, fold, ids, features[ids.to_list()])
        planned = [(name, METHOD, variant(name).change) for name in variants]
        planned += [(row, *named_changes(row)) for row in methods]
        for title, name, change in planned:
            sections = change.get("methods", {}).get(name, {})
            method = _configured(name, merge(sections, dict(extra)) if name == METHOD else sections)
            settings = Settings().model_dump(exclude={"methods"})
            general = {key: value for key, value in change.items() if key != "methods"}
            if general.get("mine_pairs", {}).get("selection") == "any" or (
                general.keys() - {"mine_pairs", "mine_samples", "generate_prompts"}
            ):
                raise CaptError(
                    f"--variant {title}: changes more than methods, pairs and representatives; "
                    "capt-stage study runs it"
                )
            mined = Mined(found, task, None, validate(Settings, merge(settings, general), "choose"))
            model = fit_method(method, mined.task_of(clip))
            after = _answers(model, fold, ids, self._features(model, fold, ids))
            metrics = evaluate_predictions(before, after, found.bank, BASE_TO_NOVEL)
            frozen = evaluate_predictions(before, before, found.bank, BASE_TO_NOVEL)
            row = {column: metrics[metric].value for column, metric in MEASURES.items()}
            yield title, row | {"frozen_novel": frozen["novel_accuracy"].value}

    @torch.no_grad()
    def _features(
        self, model: TrainedModel, fold: capt_core.Dataset, ids: pl.Series
    ) -> torch.Tensor:
        fitted, drawing = model.fitted, self.drawing
        if not isinstance(fitted, FittedCapt):
            stored = drawing.features if fitted.frozen_tower else None
            return dataset_features(fitted, fold, ids, stored, None, 128, 2)
        tower, place = fitted.model, fitted.model.first_adapted
        if place not in drawing.tokens:
            images = image_batches(fold.paths(ids), drawing.backbone.preprocess, 128, 2)
            drawing.tokens[place] = [tower.frozen_prefix(batch) for batch in images]
        alpha = tower.running_alpha
        batches = [
            tower.features(tokens, alpha.expand(len(tokens)), class_token_only=True)[0]
            for tokens in drawing.tokens[place]
        ]
        return fitted.adapt(functional.normalize(torch.cat(batches), dim=-1))


def _answers(
    model: TrainedModel, fold: capt_core.Dataset, ids: pl.Series, features: torch.Tensor
) -> pl.DataFrame:
    return classified(fold, ids, features, group_scorers(model.fitted, fold), top_classes=1)


def named_changes(row: str) -> tuple[str, dict[str, Any]]:
    """A method and its change of the settings, of ``NAME:KEY=VALUE,KEY=VALUE`` or ``NAME``.

    Raises:
        CaptError: an entry that is no ``KEY=VALUE``.
    """
    name, _, entries = row.partition(":")
    return name, {"methods": {name: _values("--method", filter(None, entries.split(",")))}}


def _values(option: str, entries: Iterable[str]) -> dict[str, Any]:
    """Nested settings of ``KEY=VALUE`` strings.

    Raises:
        CaptError: an entry of another form.
    """
    found = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not equals:
            raise CaptError(f"{option} {shown(entry)}: give KEY=VALUE")
        found[key] = yaml.safe_load(value)
    return nested(found)


def _configured(name: str, changes: Mapping[str, Any]) -> Method:
    found = method_class(name)
    values = merge(found.Settings().model_dump(), dict(changes))
    return found(validate(found.Settings, values, "choose", f"methods.{name}."))


def paired(
    results: pl.DataFrame, row: str, reference: str, measure: str
) -> tuple[float | None, float | None]:
    """Mean difference of a row to another over the cases of both, and its standard error.

    Args:
        results: columns `row`, `case` and the measures.
        row: compared.
        reference: compared with.
        measure: a column.

    Returns:
        None for what cannot be known: the mean of no case, the error of one.
    """
    one, other = (results.filter(row=name).select("case", measure) for name in (row, reference))
    joined = one.join(other, on="case").drop_nulls()
    difference = joined[measure] - joined[f"{measure}_right"]
    if difference.is_empty():
        return None, None
    spread = difference.std()
    error = None if spread is None else float(spread) / len(difference) ** 0.5  # type: ignore[arg-type]
    return float(difference.mean()), error  # type: ignore[arg-type]


def summarise(results: pl.DataFrame) -> pl.DataFrame:
    """One line per row: means, and paired differences to the first row as ``+0.40 ± 0.15``."""
    rows = results["row"].unique(maintain_order=True).to_list()
    lines = []
    for row in rows:
        own = results.filter(row=row)
        novel = (own["novel"] - own["frozen_novel"]).mean()
        line: dict[str, Any] = {"row": row, "base": own["base"].mean(), "novel change": novel}
        line |= {name: own[name].mean() for name in ("corrected", "broken")}
        for measure in MEASURES:
            mean, error = paired(results, row, rows[0], measure)
            told = "" if mean is None else f"{mean:+.2f}"
            line[f"Δ {measure}"] = told if error is None else f"{told} ± {error:.2f}"
        lines.append(line)
    return pl.DataFrame(lines)


def main(arguments: list[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Variants on pseudo-novel folds.")
    parser.add_argument("--drawing", type=int, action="append", help="seed of the textures")
    parser.add_argument("--seed", type=int, action="append", help="of the few-shot draws")
    parser.add_argument("--variant", action="append", default=[], help="in ablations.yaml")
    parser.add_argument("--method", action="append", default=[], help="NAME or NAME:KEY=VALUE,...")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of CAPT")
    parser.add_argument("--folds", type=int, default=len(FOLDS), help="only the first so many")
    parser.add_argument("--work", type=Path, help="folder for images; a temporary one if absent")
    parser.add_argument("--output", type=Path, help="CSV of every result")
    options = parser.parse_args(arguments)
    try:
        extra = _values("--set", options.set)
        for row in options.method:
            name, change = named_changes(row)
            _configured(name, change["methods"][name])
    except CaptError as error:
        parser.error(str(error))
    backbone = capt_core.load_backbone()
    found: list[dict[str, Any]] = []
    for number in options.drawing or DRAWINGS:
        folder = options.work and options.work / str(number)
        with drawn_textures(number, folder) as textures:
            drawing = Drawing.of(textures, backbone)
            for place, families in enumerate(FOLDS[: options.folds], start=1):
                for seed in options.seed or (1,):
                    with tempfile.TemporaryDirectory(prefix="capt-choose-") as work:
                        case = Case(drawing, families, seed, Path(work))
                        for row, values in case.rows(options.variant, options.method, extra):
                            named = {"row": row, "case": f"{number}-{place}-{seed}"}
                            found.append(named | values)
                print(f"drawing {number}, fold {place}: done", flush=True)
                if options.output:
                    write_text(options.output, pl.DataFrame(found).write_csv())
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=220, float_precision=2):
        print(summarise(pl.DataFrame(found)))


if __name__ == "__main__":
    main()
