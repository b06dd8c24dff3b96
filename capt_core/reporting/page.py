"""The report as one HTML page that needs nothing but itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import polars as pl

from capt_core.reporting import charts, words
from capt_core.reporting.figures import training_curves
from capt_core.reporting.findings import Findings
from capt_core.reporting.gallery import (
    NOTHING,
    OUTCOMES,
    Answer,
    Gallery,
    changed_answers,
    error_answers,
    gallery_of,
    interleaved,
    script_data,
    wanted_images,
)
from capt_core.reporting.html import packaged_script, page_template, script_json
from capt_core.reporting.matrix import matrices
from capt_core.reporting.pictures import Pictures, thumbnails
from capt_core.reporting.summary import METRICS, in_words, result_tables, summarise

PAGE_BYTES = 4_800_000
"""Length of the page that pictures may fill up to."""

PICTURE_BYTES = 3_600_000
"""Length of all pictures together at most."""

STATIC_PAIRS = 1000
"""Pairs that can be read without the script."""

STATIC_FILES = 3000
"""Images named below them."""

_SHOWN_PAIRS = 6  # with pictures that show without the script
_SHOWN_PICTURES = 4
_SHOWN_SUSPECTS = 60
_MARKUP = 40  # characters around a picture in the page


def render_page(results: pl.DataFrame, datasets: Sequence[Findings]) -> str:
    """Render the report.

    Args:
        results: table `results` of all runs; may be empty.
        datasets: what is shown of each data set, in this order.

    Returns:
        An HTML document that refers to nothing but the tables beside it. Equal inputs give equal
        text. Images that are missing or damaged are shown as such.
    """
    sections = [_Section.of(found, f"d{index}") for index, found in enumerate(datasets, start=1)]
    summary = summarise(results, [found.name for found in datasets if found.warnings])
    script, source = packaged_script("report.js")
    template = page_template(
        "report.html.jinja",
        count=words.count,
        percent=words.percent,
        points=words.points,
        p_value=words.p_value,
        in_words=in_words,
        signed=words.signed,
        quoted=lambda text: quote(text, safe=""),
    )

    def rendered(pictures: Pictures) -> str:
        return template.render(
            sections=[section.shown(pictures) for section in sections],
            tables=result_tables(summary),
            metrics=METRICS,
            results_first=len(datasets) != 1 or summary["method"].n_unique() > 2,
            script=script,
            script_source=source,
            outcomes=OUTCOMES,
        )

    bare = len(rendered(Pictures({}, 0, 0, 0)).encode())
    wanted = interleaved([(s.findings.image_root, s.gallery, s.wanted) for s in sections])
    room = min(PICTURE_BYTES, PAGE_BYTES - bare - _MARKUP * len(wanted))
    return rendered(thumbnails(wanted, max(0, room)))


@dataclass(frozen=True)
class _Section:
    """A data set on the page, but for its pictures."""

    findings: Findings
    anchor: str
    gallery: Gallery
    errors: Sequence[Answer]
    changes: Sequence[Answer]
    suspects: Sequence[Mapping[str, Any]]
    points: pl.DataFrame

    @staticmethod
    def of(findings: Findings, anchor: str) -> _Section:
        gallery = gallery_of(findings)
        suspects = findings.suspects.head(_SHOWN_SUSPECTS).to_dicts()
        return _Section(
            findings,
            anchor,
            gallery,
            error_answers(findings, gallery),
            changed_answers(findings.compared[1], gallery) if findings.compared else [],
            [row | {"image": gallery.image(row["path"])} for row in suspects],
            charts.map_points(findings.image_map, findings.errors),
        )

    @property
    def wanted(self) -> list[int]:
        return wanted_images([row["image"] for row in self.suspects], self.errors, self.changes)

    def shown(self, pictures: Pictures) -> dict[str, Any]:
        """What the template reads of the data set."""
        findings, root = self.findings, self.findings.image_root
        encoded = {}
        if root is not None:
            for number in self.wanted:
                text = pictures.encoded.get(root / self.gallery.paths[number])
                if text is not None:
                    encoded[number] = text
        pairs, inline = self._pairs()
        inline = [number for number in inline if number in encoded]
        points = self.points
        seeds = max(1, findings.summary["seed"].n_unique())
        map_images = [self.gallery.image(path) for path in points["path"].to_list()]
        data = script_data(
            self.gallery,
            seeds=seeds,
            repaired=findings.repaired_label is not None,
            labels=[findings.base_label, findings.repaired_label or ""],
            outcomes=list(OUTCOMES.values()),
            rows=[answer.row for answer in self.errors],
            changes=[answer.row for answer in self.changes],
            pairs=[_compact(pair) for pair in findings.pairs[STATIC_PAIRS:].iter_rows(named=True)],
            map=[points["px"].to_list(), points["py"].to_list(), points["class_id"].to_list()]
            + [map_images],
            pictures={
                number: text for number, text in encoded.items() if number not in {*inline}
            },
        )
        return {
            "found": findings,
            "anchor": self.anchor,
            "summary": words.summaries(findings),
            "seeds": seeds,
            "matrices": matrices(findings),
            "names": self.gallery.names,
            "paths": self.gallery.paths,
            "pairs": pairs,
            "pair_count": findings.pairs.height,
            "largest": max([1.0, *_largest(findings.pairs)]),
            "inline": {number: encoded[number] for number in inline},
            "suspects": self.suspects,
            "suspect_count": findings.suspects.height,
            "changes": self.changes,
            "map": charts.map_classes(points),
            "map_left_out": findings.image_map.height - points.height,
            "reliability": charts.reliability_charts(findings.reliability),
            "precision": words.precisions(findings.precision),
            "curves": training_curves(findings.training_logs),
            "steps": [
                row | {"title": words.ACTIONS.get(row["action"], in_words(row["action"]))}
                for row in findings.steps.sort("position").iter_rows(named=True)
            ],
            "pictures": pictures,
            "data": script_json(data),
        }

    def _pairs(self) -> tuple[list[dict[str, Any]], list[int]]:
        """Pairs that are there without the script, and the images shown with them."""
        by_place: dict[tuple[int, int], list[Answer]] = defaultdict(list)
        for answer in self.errors:
            for taken in {answer.before, answer.after} - {answer.true, NOTHING}:
                by_place[answer.true, taken].append(answer)
        inline = dict.fromkeys(row["image"] for row in self.suspects)
        pairs, room = [], STATIC_FILES
        for position, pair in enumerate(self.findings.pairs.head(STATIC_PAIRS).to_dicts()):
            answers = by_place[pair["true_class_id"], pair["taken_class_id"]]
            shown = answers[:_SHOWN_PICTURES] if position < _SHOWN_PAIRS else []
            inline |= dict.fromkeys(answer.image for answer in shown)
            listed = answers[:room]
            room -= len(listed)
            pairs.append(pair | {"answers": listed, "all": len(answers), "shown": shown})
        return pairs, list(inline)


def _compact(pair: Mapping[str, Any]) -> list[Any]:
    return [
        pair["true_class_id"],
        pair["taken_class_id"],
        pair["images"],
        *(None if pair[name] is None else round(pair[name], 2) for name in words.PAIR_COUNTS),
        pair["moved_to"],
    ]


def _largest(pairs: pl.DataFrame) -> list[float]:
    found = (pairs[name].max() for name in ("before", "after"))
    return [float(value) for value in found if isinstance(value, int | float)]
