"""From a data set's artifacts to everything that the report shows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from capt_core.advice import setting, tool
from capt_core.artifacts.report_tables import IMAGE_MAP, TEST_ERRORS
from capt_core.evaluation.doubts import (
    EMBEDDED_NOTE,
    backbone_doubts,
    doubts,
    is_embedded,
    is_unsuited,
)
from capt_core.evaluation.outcomes import (
    class_results,
    counted_images,
    differences,
    image_outcomes,
    pair_results,
    summary_rows,
)
from capt_core.methods.registry import BASE_METHOD
from capt_core.reporting.confidence import confidences
from capt_core.reporting.error_examples import with_representatives
from capt_core.reporting.evidence import Evidence
from capt_core.reporting.findings import Findings
from capt_core.reporting.image_map import Projection, image_map
from capt_core.reporting.inputs import PREFERRED_METHOD, DatasetInputs
from capt_core.reporting.next_steps import next_steps
from capt_core.reporting.summary import in_words, method_name
from capt_core.reporting.suspected import suspected_labels

IMPORTED = "imported predictions"


def find(
    inputs: DatasetInputs,
    projection: Projection = "pca",
    compared: tuple[str, pl.DataFrame] | None = None,
) -> Findings:
    """Work out what the report shows of a data set. Equal inputs give equal findings.

    Args:
        inputs: from `read_inputs`.
        projection: of the map.
        compared: name of another run, and table `run_changes` from it to this one.

    Raises:
        CaptError: the projection needs an extra that is not installed.
    """
    dataset = inputs.dataset
    classes = dataset.classes
    after = {seed: counted_images(run.predictions) for seed, run in inputs.shown_runs.items()}
    before = {
        entry.seed: _counted(entry.predictions, after.get(entry.seed)) for entry in inputs.seeds
    }
    repaired = bool(after)
    by_seed = {seed: image_outcomes(frame, after.get(seed), seed) for seed, frame in before.items()}
    outcomes = pl.concat(by_seed.values())
    pairs = pair_results(outcomes, repaired)
    first = inputs.seeds[0]
    imported = inputs.base is None
    fitted = inputs.base is None or inputs.base.method != BASE_METHOD
    suspects = suspected_labels(
        dataset.samples,
        classes,
        first.predictions,
        inputs.features,
        trained_elsewhere=fitted,
    )
    training = dataset.samples.filter(pl.col("split") == "train")
    model = (dataset.name, inputs.backbone, inputs.untrained, first.predictions, classes)
    evidence = Evidence(
        dataset=dataset.name,
        again=_again(inputs),
        repaired=repaired,
        imported=imported,
        unsuited=is_unsuited(*model),
        outcomes=by_seed[first.seed],
        suspects=suspects,
        training=first.training,
        available=dict(training.group_by("class_id").len().iter_rows()),
        features=inputs.features,
        texts=inputs.text_features,
        prompts=first.prompts,
        separation=first.separation,
    )
    known = confidences(list(before.values()), list(after.values()))
    warnings = doubts(*model)
    embedded = is_embedded(dataset.name) and not imported
    return Findings(
        name=dataset.name,
        protocol=dataset.protocol,
        base_label=_base_label(inputs),
        repaired_label=None if inputs.method is None else method_name(inputs.method, ""),
        image_root=inputs.image_root,
        facts=_facts(inputs, before[first.seed]),
        warnings=[*warnings, *[EMBEDDED_NOTE] * embedded],
        further=_further(inputs, bool(known.calibration)),
        classes=classes,
        summary=summary_rows(outcomes, classes, repaired),
        errors=_errors(inputs, by_seed),
        pairs=pairs,
        class_results=class_results(outcomes, pairs, classes, repaired),
        suspects=suspects,
        steps=next_steps(pairs, evidence),
        reliability=known.reliability,
        precision=known.precision,
        image_map=_map(inputs, before[first.seed], projection),
        calibration=known.calibration,
        training_logs={seed: run.training_log for seed, run in inputs.shown_runs.items()},
        difference=differences(outcomes) if repaired else {},
        compared=compared,
        provenance=_provenance(inputs),
        evidence=not (embedded or backbone_doubts(dataset.name, inputs.backbone, inputs.untrained)),
    )


def _base_label(inputs: DatasetInputs) -> str:
    return IMPORTED if inputs.base is None else method_name(inputs.base.method, "")


def _counted(predictions: pl.DataFrame, after: pl.DataFrame | None) -> pl.DataFrame:
    """Rows of the images that are counted; with a repaired model those that it classified, too."""
    if after is None:
        return counted_images(predictions)
    return predictions.join(after.select("sample_id"), on="sample_id", how="semi")


def _errors(inputs: DatasetInputs, by_seed: Mapping[int, pl.DataFrame]) -> pl.DataFrame:
    parts = []
    for entry in inputs.seeds:
        wrong = by_seed[entry.seed].filter(pl.col("outcome") != "right")
        parts.append(TEST_ERRORS.select(with_representatives(wrong, entry.bank, inputs.features)))
    return pl.concat(parts).sort("seed", "sample_id")


def _map(inputs: DatasetInputs, counted: pl.DataFrame, projection: Projection) -> pl.DataFrame:
    if inputs.features is None:
        return IMAGE_MAP.frame()
    images = inputs.dataset.samples.join(
        counted.select("sample_id"), on="sample_id", how="semi", maintain_order="left"
    )
    return image_map(images, inputs.features, projection)


def _again(inputs: DatasetInputs) -> dict[str, object]:
    """Options of `run` for the seeds and methods that are shown, where they are not the usual."""
    seeds = [entry.seed for entry in inputs.seeds]
    methods = sorted({run.method for run in inputs.runs} - {BASE_METHOD})
    found: dict[str, object] = {}
    if methods and methods != [PREFERRED_METHOD]:
        found["method"] = methods
    if len(seeds) > 1:
        found["seed"] = seeds
    return found


def _facts(inputs: DatasetInputs, counted: pl.DataFrame) -> list[str]:
    facts = [f"Base model: {_base_label(inputs)}"]
    if inputs.backbone:
        facts.append(f"Backbone: {inputs.backbone}")
    facts.append(f"Protocol: {in_words(inputs.dataset.protocol).lower()}")
    if inputs.method is not None:
        shots = f"{inputs.shots} images per class" if inputs.shots else "the whole training split"
        facts.append(f"Training images: {shots}")
    if inputs.base is not None:
        facts.append(f"Seeds: {', '.join(str(entry.seed) for entry in inputs.seeds)}")
    splits = counted["split"].unique().sort().to_list()
    if splits and splits != ["test"]:
        facts.append(
            f"No test images: errors are counted over the {len(counted)} images of "
            f"{' and '.join(splits)}" + ", some of which were trained on" * bool(inputs.method)
        )
    banks = [entry.bank for entry in inputs.seeds if entry.bank is not None]
    if banks:
        sizes = ", ".join(str(bank["sample_id"].n_unique()) for bank in banks)
        # Of imported predictions without training images, all are banked.
        trained = inputs.base is not None or ("train" in inputs.seeds[0].predictions["split"])
        kind = "training images" if trained else "images"
        facts.append(f"Confusion bank: {sizes} misclassified {kind}")
    return facts


def _further(inputs: DatasetInputs, confident: bool) -> list[tuple[str, str]]:
    """What else could be shown, with the command that adds it, in the order of the report."""
    name, first = inputs.dataset.name, inputs.seeds[0]
    imported = inputs.base is None
    found = []
    if inputs.image_root is None:
        root = setting("data.root", "FOLDER")
        command = tool("report", dataset=name)
        found.append(("the images themselves", f"{command} {root}"))
    if not confident:
        found.append(
            (
                "how far confidences can be believed, and images whose labels look wrong: with a "
                "column confidence or scores in the table",
                tool("import-predictions FILE", dataset=name),
            )
        )
    if first.bank is None:
        command = (
            tool("build-bank", dataset=name)
            if imported
            else tool("run", dataset=name, until="build-bank")
        )
        found.append(("the confusing training image beside each error", command))
    if imported:
        return found
    if inputs.method is None:
        found.append(
            (
                "what a repair changes, image by image, and calibrated confidences",
                tool("run", dataset=name, **_again(inputs)),
            )
        )
    elif first.prompts is None or first.separation is None:
        found.append(
            (
                "whether the prompts in use separate each pair",
                tool("run", dataset=name, until="cluster-prompts"),
            )
        )
    return found


def _provenance(inputs: DatasetInputs) -> Sequence[Mapping[str, str]]:
    rows = [
        {
            "method": method_name(run.method, ""),
            "seed": str(run.seed),
            "settings": run.provenance.settings,
            "backbone": run.provenance.backbone,
            "fingerprint": run.provenance.dataset_fingerprint,
        }
        for run in sorted(
            inputs.runs, key=lambda run: (run.method != BASE_METHOD, run.method, run.seed)
        )
    ]
    if rows:
        return rows
    return [
        {
            "method": _base_label(inputs),
            "seed": str(entry.seed),
            "settings": "",
            "backbone": inputs.backbone,
            "fingerprint": inputs.dataset.fingerprint,
        }
        for entry in inputs.seeds
    ]
