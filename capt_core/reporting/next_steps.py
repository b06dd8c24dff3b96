"""What to do next about each confused pair, with the reason and a command."""

from __future__ import annotations

import polars as pl

from capt_core.artifacts.report_tables import NEXT_STEPS
from capt_core.reporting.evidence import Evidence, Pair, Step
from capt_core.reporting.step_rules import RULES, otherwise

PAIRS = 12
"""How many pairs are advised on: a day's work."""


def next_steps(pairs: pl.DataFrame, evidence: Evidence) -> pl.DataFrame:
    """Advice on the pairs with most errors left, worst first.

    The first cause that is found decides, in the order in which it is cheapest to mend: wrong
    labels, classes of few images, names that say the same, an unsuited model, photographs that
    are missing, prompts that do not separate.

    Args:
        pairs: table `pair_results`.
        evidence: what is known of the data set.

    Returns:
        Rows as in the table `next_steps`.
    """
    left = "after" if evidence.repaired else "before"
    ranked = pairs.sort(
        left,
        "before",
        "true_class_id",
        "taken_class_id",
        descending=[True, True, False, False],
        maintain_order=True,
    ).head(PAIRS)
    rows = []
    for position, pair in enumerate(ranked.iter_rows(named=True), start=1):
        step = advice(pair, evidence)
        rows.append(
            {name: pair[name] for name in NEXT_STEPS.columns if name in pair}
            | {"position": position, **step.__dict__}
        )
    return NEXT_STEPS.frame(rows)


def advice(pair: Pair, evidence: Evidence) -> Step:
    """Advice on one pair."""
    for rule in RULES:
        step = rule(pair, evidence)
        if step is not None:
            return step
    return otherwise(pair, evidence)
