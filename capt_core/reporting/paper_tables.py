"""The paper's ablations: its numbers, and which of our variants stand beside them."""

from __future__ import annotations

from dataclasses import dataclass

FULL = "recommended"
"""The variant that all others differ from."""

Accuracies = tuple[float, float, float]


@dataclass(frozen=True)
class StudyRow:
    """One row of a study table.

    Attributes:
        label: for people.
        variant: as in the settings.
        method: method it is run with.
        paper: the paper's base accuracy, novel accuracy and harmonic mean, averaged over eleven
            data sets with its own backbone; None where it prints none.
        setting: number on the axis, for rows that belong to a curve.
    """

    label: str
    variant: str = FULL
    method: str = "capt"
    paper: Accuracies | None = None
    setting: float | None = None


@dataclass(frozen=True)
class StudyTable:
    """One ablation.

    Attributes:
        name: for anchors and file names.
        title: for people.
        source: where the paper shows it, empty for what goes beyond the paper.
        rows: in order; exactly one is the full method.
        best: for a curve, the setting that the paper finds best.
        remark: what to know when comparing, or nothing.
    """

    name: str
    title: str
    source: str
    rows: tuple[StudyRow, ...]
    best: float | None = None
    remark: str = ""


_CAPT: Accuracies = (87.41, 80.90, 83.90)
_FULL_MEAN = (
    "The paper's partial rows lie far below the 86.96 / 80.73 of the frozen base model that "
)
_FROZEN = (
    _FULL_MEAN
    + "it starts from. Parts that begin as the identity on a frozen model cannot do that, "
    "so that gap is not expected here."
)

TABLES = (
    StudyTable(
        "methods",
        "Methods and presets",
        "",
        (
            StudyRow("Zero-shot CLIP (frozen base model)", method="clip"),
            StudyRow("CLIP with difference prompts, not trained", method="clip_prompts"),
            StudyRow("Linear probe, 16 shots", method="linear_probe"),
            StudyRow("CoOp, learned context", method="coop"),
            StudyRow("Residual with retention, class prompts alone", "class_prompts", "residual"),
            StudyRow("Residual with retention", method="residual"),
            StudyRow("Residual with retention over all class names", "all_names", "residual"),
            StudyRow("CAPT, paper", "paper"),
            StudyRow("CAPT, fast", "fast"),
            StudyRow("CAPT, recommended, class prompts alone", "class_prompts"),
            StudyRow("CAPT, recommended"),
            StudyRow("CAPT, recommended, retention over all class names", "all_names"),
        ),
        remark="Recommended, the residual beside it and CLIP with difference prompts compare "
        "images with class prompts and the difference prompts written for the confused pairs; "
        "those of this data set were written by someone who knew how its textures are drawn, in "
        "words that its CLIP was trained with.",
    ),
    StudyTable(
        "components",
        "Components",
        "Table 5",
        (
            StudyRow("SEM", "sem_only", paper=(80.69, 64.39, 71.62)),
            StudyRow("SAM", "sam_only", paper=(83.28, 63.41, 72.00)),
            StudyRow("SEM + SAM", "sem_and_sam", paper=(85.23, 65.17, 73.86)),
            StudyRow("SEM + SAM + MGDE", paper=_CAPT),
        ),
        remark=_FROZEN,
    ),
    StudyTable(
        "statistics",
        "Confusion statistics in the score (eq. 7)",
        "Table 6",
        (
            StudyRow("without", "without_statistics", paper=(86.77, 78.84, 82.62)),
            StudyRow("with", paper=_CAPT),
        ),
    ),
    StudyTable(
        "pseudo_labels",
        "Mining by the true label or the predicted one (eq. 6)",
        "Table 7",
        (
            StudyRow("real ground truth", "real_gt", paper=(86.94, 79.52, 83.06)),
            StudyRow("pseudo ground truth", paper=_CAPT),
        ),
    ),
    StudyTable(
        "sampling",
        "Choice of the confusing image (eq. 8)",
        "Table 8",
        (
            StudyRow("random", "random_samples", paper=(86.86, 79.55, 83.04)),
            StudyRow("representative", paper=_CAPT),
        ),
    ),
    StudyTable(
        "base_model",
        "Base model whose errors fill the bank",
        "Table 9",
        (
            StudyRow("CoOp", "coop_base", paper=(84.19, 71.88, 77.55)),
            StudyRow("CLIP", paper=(73.56, 77.23, 75.35)),
        ),
        remark="The paper prints 77.35 as CLIP's harmonic mean; its base and novel accuracies "
        "give 75.35. Its default base model, PromptKD, is not part of this project yet.",
    ),
    StudyTable(
        "adapter",
        "Parts of the Diff-Manner Adapter (eq. 9, 10)",
        "Table 10",
        (
            StudyRow("global", "global_only", paper=(81.22, 76.23, 78.65)),
            StudyRow("local", "local_only", paper=(85.19, 72.88, 78.56)),
            StudyRow("global + local", paper=_CAPT),
        ),
        remark=_FROZEN,
    ),
    StudyTable(
        "noise",
        "Gaussian noise on representatives",
        "Table 11",
        (
            StudyRow("5 %", "noise_5", paper=(79.87, 74.49, 77.09)),
            StudyRow("10 %", "noise_10", paper=(72.41, 69.56, 70.96)),
            StudyRow("none", paper=_CAPT),
        ),
        remark="The paper calls its own loss of 7 to 15 points marginal. " + _FROZEN,
    ),
    StudyTable(
        "pairs",
        "Confusion pairs per image",
        "Figure 9",
        (
            StudyRow("1", "pairs_1", setting=1),
            StudyRow("3", "pairs_3", setting=3),
            StudyRow("5", setting=5),
            StudyRow("10", "pairs_10", setting=10),
        ),
        best=5,
    ),
    StudyTable(
        "representatives",
        "Representatives per pair",
        "Figure 9",
        (
            StudyRow("1", setting=1),
            StudyRow("2", "representatives_2", setting=2),
            StudyRow("5", "representatives_5", setting=5),
        ),
        best=1,
    ),
    StudyTable(
        "scale",
        "s of eq. 13",
        "Figure 10",
        (
            StudyRow("1", "scale_1", setting=1),
            StudyRow("5", setting=5),
            StudyRow("10", "scale_10", setting=10),
        ),
        best=5,
    ),
    StudyTable(
        "exponent",
        "gamma of eq. 13",
        "Figure 10",
        (
            StudyRow("0.1", "exponent_0_1", setting=0.1),
            StudyRow("0.5", setting=0.5),
            StudyRow("2", "exponent_2", setting=2),
        ),
        best=0.5,
    ),
    StudyTable(
        "beyond",
        "What the paper does not have",
        "",
        (
            StudyRow("without difference prompts in the class texts", "class_prompts"),
            StudyRow("without retention", "without_retention"),
            StudyRow("retention over generic words alone", "generic_words"),
            StudyRow("without L_confuse", "without_confusion"),
            StudyRow("recommended"),
        ),
    ),
)
