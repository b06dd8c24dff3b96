"""Causes of a pair's confusions, each with what tells it and what mends it."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from capt_core.advice import setting, tool
from capt_core.prompts.generation import DIFFERENCE, TEMPLATE_SOURCE
from capt_core.reporting.alike_names import same_words
from capt_core.reporting.evidence import Evidence, Pair, Step, cohens_d, nearest_cosines

FEW_ERRORS = 3
"""Images; fewer may be chance, whatever their cause seems to be."""

REPAIRED = 0.25
"""A pair is repaired where no more than this share of its errors is left."""

SUSPECT_SHARE = 0.25
"""Of a pair's errors: with so many doubtful labels, no training can be judged by the pair."""

ALIKE_TEXTS = 3.0
"""Standard deviations that the cosine of two class texts lies above the mean of all pairs: one pair
in a thousand of a normal distribution."""

WEAK_PROMPTS = 0.6
"""AUC of prompts that hardly separate their pair's images; 0.5 is chance."""

UNKNOWN_NAME_IMAGES = 8
"""Images of a class, none of which the base model recognises: with so many it is not by chance."""

FEW_PHOTOGRAPHS = 8
"""Training images of a class, below which few-shot methods depend on which were drawn."""

UNLIKE = 1.0
"""Standard deviations (Cohen's d; 0.8 is called large) that errors lie farther from the training
images of their class than right answers do."""

_PHOTOGRAPHS_COMPARED = 3  # least number of errors and of right answers


def _repaired(pair: Pair, evidence: Evidence) -> Step | None:
    left = _left(pair, evidence)
    if evidence.repaired and pair["before"] >= FEW_ERRORS and left <= REPAIRED * pair["before"]:
        return Step(
            "nothing",
            f"Repaired: of {_number(pair['before'])} errors {_number(left)} "
            f"{'is' if left == 1 else 'are'} left.",
        )
    return None


def _mislabelled(pair: Pair, evidence: Evidence) -> Step | None:
    found = evidence.suspects.filter(
        pl.col("label_id") == pair["true_class_id"],
        pl.col("suggested_id") == pair["taken_class_id"],
    )
    left = _left(pair, evidence)
    tested = found.filter(pl.col("split") == "test").height
    if len(found) < 2 or max(tested, len(found) / 2) < SUSPECT_SHARE * left:
        return None
    again = "import the corrected table" if evidence.imported else "run again"
    return Step(
        "check_labels",
        f"{_images(len(found))} filed under {pair['true_class']} look like {pair['taken_class']}; "
        f"suspected_labels.csv lists them. Correct those that are filed wrongly, then {again}.",
        _again(evidence),
    )


def _small_class(pair: Pair, evidence: Evidence) -> Step | None:
    there = evidence.available.get(pair["true_class_id"], 0)
    if pair["group"] == "novel" or not evidence.drawn or there >= FEW_PHOTOGRAPHS:
        return None
    if evidence.unsuited:
        return None
    return Step(
        "add_photographs",
        f"{pair['true_class']} has {_images(there, 'training image')} only: "
        f"add more, {_kind(pair)}.",
        _again(evidence),
    )


def _rare(pair: Pair, evidence: Evidence) -> Step | None:
    left = _left(pair, evidence)
    if left >= FEW_ERRORS:
        return None
    return Step("nothing", f"{_images(left)}: too few errors to tell a cause from chance.")


def _alike(pair: Pair, evidence: Evidence) -> Step | None:
    if evidence.imported:
        return None
    true, taken = pair["true_class"], pair["taken_class"]
    reason = ""
    if same_words(true, taken):
        reason = "One name says all that the other says"
    elif evidence.text_spread is not None and evidence.texts is not None and not evidence.unsuited:
        mean, deviation = evidence.text_spread
        cosine = float(
            evidence.texts[pair["true_class_id"]] @ evidence.texts[pair["taken_class_id"]]
        )
        if deviation > 0 and cosine >= mean + ALIKE_TEXTS * deviation:
            reason = (
                f"To the model the two names say nearly the same (cosine {cosine:.2f}, "
                f"{mean:.2f} on average over all pairs)"
            )
    if not reason:
        return None
    return Step(
        "rename_classes",
        f"{reason}. If both mean the same, put their images into one folder. Else give each a name "
        "that tells what is visible, below names: in classes.yaml beside the images. Then run "
        "again.",
        _again(evidence),
    )


def _unsuited(_: Pair, evidence: Evidence) -> Step | None:
    if not evidence.unsuited:
        return None
    if evidence.imported:
        return Step(
            "choose_model",
            "The imported predictions are hardly better than guesses, so that what they confuse "
            "says little about the classes. Check the columns of the table, then import it again.",
            _again(evidence),
        )
    return Step(
        "choose_model",
        "The model hardly knows such images, so that what it confuses says little about the "
        "classes. Take one that was trained on photographs; FILE stands for its weights.",
        _joined(
            _again(evidence),
            setting("backbone.name", "ViT-B-16"),
            setting("backbone.checkpoint", "FILE"),
        ),
    )


def _unknown_name(pair: Pair, evidence: Evidence) -> Step | None:
    """A base model that reads most classes, and not one image of this: by its name, most likely."""
    if evidence.imported or evidence.texts is None:
        return None
    outcomes = evidence.outcomes.filter(pl.col("group") == pair["group"])
    right = pl.col("base_prediction_id") == pl.col("true_class_id")
    own = outcomes.filter(pl.col("true_class_id") == pair["true_class_id"])
    others = outcomes.filter(pl.col("true_class_id") != pair["true_class_id"])
    if len(own) < UNKNOWN_NAME_IMAGES or own.select(right.any()).item():
        return None
    if others.is_empty() or others.select(right.mean()).item() < 0.5:
        return None
    return Step(
        "rename_classes",
        f"The base model recognises none of the {_images(len(own))} of {pair['true_class']}, and "
        "most of the other classes: it may not know the name. Write one that tells what is "
        "visible, under names: in classes.yaml beside the images, then run again.",
        _again(evidence),
    )


def _few_used(pair: Pair, evidence: Evidence) -> Step | None:
    if pair["group"] == "novel" or not evidence.drawn or evidence.imported:
        return None
    true = pair["true_class_id"]
    used, there = len(evidence.drawn.get(true, ())), evidence.available.get(true, 0)
    if used >= FEW_PHOTOGRAPHS or there <= used:
        return None
    return Step(
        "add_photographs",
        f"Only {used} of the {there} training images of {pair['true_class']} are used.",
        _joined(_again(evidence), setting("fewshot.shots", str(min(there, 2 * FEW_PHOTOGRAPHS)))),
    )


def _unlike_photographs(pair: Pair, evidence: Evidence) -> Step | None:
    members = evidence.drawn.get(pair["true_class_id"])
    if evidence.features is None or members is None or pair["group"] == "novel":
        return None
    model = "prediction_id" if evidence.repaired else "base_prediction_id"
    own = evidence.outcomes.filter(pl.col("true_class_id") == pair["true_class_id"])
    errors = own.filter(pl.col(model) == pair["taken_class_id"])["sample_id"].to_numpy()
    right = own.filter(pl.col(model) == pair["true_class_id"])["sample_id"].to_numpy()
    if min(len(errors), len(right)) < _PHOTOGRAPHS_COMPARED:
        return None
    wrong_near, right_near = (
        nearest_cosines(evidence.features, images, members) for images in (errors, right)
    )
    if cohens_d(right_near, wrong_near) < UNLIKE:
        return None
    return Step(
        "add_photographs",
        f"The misread images are unlike the training images of {pair['true_class']}: the nearest "
        f"has cosine {wrong_near.mean():.2f} on average, {right_near.mean():.2f} for images that "
        f"are read right. Add more, {_kind(pair)}.",
        _again(evidence),
    )


def _weak_prompts(pair: Pair, evidence: Evidence) -> Step | None:
    if evidence.imported or evidence.prompts is None:
        return None
    both = pl.concat_list("class_id", "paired_class_id").list.sort()
    wanted = sorted((pair["true_class_id"], pair["taken_class_id"]))
    own = evidence.prompts.filter(
        pl.col("kind") == DIFFERENCE,
        both.list.get(0) == wanted[0],
        both.list.get(1) == wanted[1],
    )
    if len(own) and (own["source"] == TEMPLATE_SOURCE).all():
        return Step(
            "write_prompts",
            "The prompts that are to tell the two classes apart only name them: they were filled "
            "in from templates. Let a language model write them (it needs a key, and costs money; "
            "generate-prompts --dry-run says how much), or write them yourself and name the file "
            "in generate_prompts.store.",
            _joined(_again(evidence), setting("generate_prompts.provider", "anthropic")),
        )
    if evidence.separation is None:
        return None
    weak = evidence.separation.filter(
        both.list.get(0) == wanted[0], both.list.get(1) == wanted[1], pl.col("auc") <= WEAK_PROMPTS
    ).sort("auc")
    if weak.is_empty():
        return None
    row = weak.row(0, named=True)
    return Step(
        "write_prompts",
        f"The prompts in use do not separate the pair: what describes {row['class_name']} is "
        f"nearer to its own images than to those of {row['paired_class']} in "
        f"{100 * row['auc']:.0f} % of comparisons (50 % is chance). Read them, then write better "
        "ones into a store of your own (generate_prompts.store).",
        tool(
            "prompts show",
            dataset=evidence.dataset,
            class_=row["class_name"],
            partner=row["paired_class"],
        ),
    )


RULES: tuple[Callable[[Pair, Evidence], Step | None], ...] = (
    _repaired,
    _mislabelled,
    _small_class,
    _rare,
    _alike,
    _unsuited,
    _unknown_name,
    _few_used,
    _unlike_photographs,
    _weak_prompts,
)


def otherwise(pair: Pair, evidence: Evidence) -> Step:
    """Where no cause shows itself."""
    if evidence.imported:
        return Step(
            "add_photographs",
            "Labels do not explain it. Train your classifier on more images of both classes like "
            "those that it misreads, and import its new predictions.",
            _again(evidence),
        )
    if pair["group"] == "novel":
        return Step(
            "nothing",
            "Novel classes are left untrained by this protocol; data.protocol=all_classes "
            "trains them.",
        )
    if not evidence.repaired:
        return Step(
            "repair",
            "Neither labels nor names explain it, and no repair was tried: the whole run trains "
            "on these confusions and shows what becomes of them.",
            _again(evidence),
        )
    return Step(
        "add_photographs",
        "Labels, names and prompts do not explain it: what is left are more training images of "
        "both classes like those that are misread.",
        _again(evidence),
    )


def _left(pair: Pair, evidence: Evidence) -> float:
    return float(pair["after" if evidence.repaired else "before"])


def _kind(pair: Pair) -> str:
    return f"like those that are taken for {pair['taken_class']}"


def _again(evidence: Evidence) -> str:
    if evidence.imported:
        return tool("import-predictions FILE", dataset=evidence.dataset)
    return tool("run", dataset=evidence.dataset, **evidence.again)


def _joined(text: str, *given: str) -> str:
    """A command with settings; a remark behind it where settings stand in a file."""
    if all(each.startswith("--") for each in given):
        return " ".join((text, *given))
    return f"{text}  # with {', '.join(given)}"


def _number(value: float) -> str:
    rounded = round(float(value), 1)
    return f"{rounded:.0f}" if rounded.is_integer() else f"{rounded}"


def _images(number: float, noun: str = "image") -> str:
    return f"{_number(number)} {noun}" + "s" * (number != 1)
