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
from capt_core.reporting.summary import in_words, result_tables, summarise

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
_FEW_POINTS = 500  # of the map, which are drawn larger
_SHOWN_SUSPECTS = 60
_MARKUP = 16  # characters around a picture in the script's data
_INLINE_MARKUP = 250  # around one that shows without the script, its file name included


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
    summary = summarise(results, [found.name for found in datasets if not found.evidence])
    script, source = packaged_script("report.js")
    template = page_template(
        "report.html.jinja",
        count=words.count,
        exact=words.exact,
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
            results_first=len(datasets) != 1 or summary["method"].n_unique() > 2,
            script=script,
            script_source=source,
            outcomes=OUTCOMES,
        )

    bare = len(rendered(Pictures({}, 0, 0, 0)).encode())
    wanted = interleaved([(s.findings.image_root, s.gallery, s.wanted) for s in sections])
    markup = _MARKUP * len(wanted) + _INLINE_MARKUP * sum(len(s.inline) for s in sections)
    room = min(PICTURE_BYTES, PAGE_BYTES - bare - markup)
    return rendered(thumbnails(wanted, max(0, room)))


@dataclass(frozen=True)
class _Section:
    """A data set on the page.

    Attributes:
        findings: what was found on it.
        gallery: its images by number.
        wanted: numbers of the images whose pictures are wanted, those that matter most first.
        inline: of these, those that show without the script.
        facts: what the template reads, but for pictures.
        data: what the script reads, but for pictures.
    """

    findings: Findings
    gallery: Gallery
    wanted: Sequence[int]
    inline: Sequence[int]
    facts: Mapping[str, Any]
    data: Mapping[str, Any]

    @staticmethod
    def of(findings: Findings, anchor: str) -> _Section:
        gallery = gallery_of(findings)
        errors = error_answers(findings, gallery)
        changes = changed_answers(findings.compared[1], gallery) if findings.compared else []
        suspects = [
            row | {"image": gallery.image(row["path"])}
            for row in findings.suspects.head(_SHOWN_SUSPECTS).to_dicts()
        ]
        suspected = [row["image"] for row in suspects]
        points = charts.map_points(findings.image_map, findings.errors)
        pairs = _static_pairs(findings.pairs, errors)
        shown = [answer.image for pair in pairs for answer in pair["shown"]]
        return _Section(
            findings,
            gallery,
            wanted_images(suspected, errors, changes),
            [*dict.fromkeys([*suspected, *shown])],
            _facts(findings, anchor, gallery, points)
            | {"pairs": pairs, "suspects": suspects, "changes": changes},
            _script_facts(findings, errors, changes, points, gallery),
        )

    def shown(self, pictures: Pictures) -> dict[str, Any]:
        """What the template reads of the data set, with those of its pictures that there are."""
        root = self.findings.image_root
        encoded: dict[int, str] = {}
        if root is not None:
            files = {number: root / self.gallery.paths[number] for number in self.wanted}
            encoded = {
                number: pictures.encoded[path]
                for number, path in files.items()
                if path in pictures.encoded
            }
        inline = {number: encoded.pop(number) for number in self.inline if number in encoded}
        data = script_data(self.gallery, **self.data, pictures=encoded)
        return {
            **self.facts,
            "inline": inline,
            "pictures": pictures,
            "data": script_json(data),
        }


def _facts(
    findings: Findings, anchor: str, gallery: Gallery, points: pl.DataFrame
) -> dict[str, Any]:
    return {
        "found": findings,
        "anchor": anchor,
        "summary": words.summaries(findings),
        "seeds": _seeds(findings),
        "matrices": matrices(findings),
        "names": gallery.names,
        "paths": gallery.paths,
        "pair_count": findings.pairs.height,
        "largest": max([1.0, *_largest(findings.pairs)]),
        "suspect_count": findings.suspects.height,
        "map": charts.map_classes(points),
        "few_points": points.height < _FEW_POINTS,
        "map_left_out": findings.image_map.height - points.height,
        "reliability": charts.reliability_charts(findings.reliability),
        "precision": words.precisions(findings.precision),
        "curves": training_curves(findings.training_logs),
        "steps": words.pieces_of_advice(findings.steps),
        "worst": {
            group: words.worst_pairs(part)
            for (group,), part in findings.pairs.group_by("group", maintain_order=True)
        },
    }


def _script_facts(
    findings: Findings,
    errors: Sequence[Answer],
    changes: Sequence[Answer],
    points: pl.DataFrame,
    gallery: Gallery,
) -> dict[str, Any]:
    return {
        "seeds": _seeds(findings),
        "repaired": findings.repaired_label is not None,
        "pictured": findings.image_root is not None,
        "labels": [findings.base_label, findings.repaired_label or ""],
        "outcomes": list(OUTCOMES.values()),
        "compared": findings.compared[0] if findings.compared else "",
        "rows": [answer.row for answer in errors],
        "changes": [answer.row for answer in changes],
        "pairs": [_compact(pair) for pair in findings.pairs[STATIC_PAIRS:].iter_rows(named=True)],
        "map": [
            *(points[name].to_list() for name in ("px", "py", "class_id")),
            [gallery.image(path) for path in points["path"].to_list()],
        ],
    }


def _static_pairs(pairs: pl.DataFrame, errors: Sequence[Answer]) -> list[dict[str, Any]]:
    """Pairs that are there without the script, with their images."""
    by_place: dict[tuple[int, int], list[Answer]] = defaultdict(list)
    for answer in errors:
        for taken in {answer.before, answer.after} - {answer.true, NOTHING}:
            by_place[answer.true, taken].append(answer)
    found, room = [], STATIC_FILES
    for position, pair in enumerate(pairs.head(STATIC_PAIRS).to_dicts()):
        answers = by_place[pair["true_class_id"], pair["taken_class_id"]]
        listed = answers[:room]
        room -= len(listed)
        shown = answers[:_SHOWN_PICTURES] if position < _SHOWN_PAIRS else []
        found.append(pair | {"answers": listed, "all": len(answers), "shown": shown})
    return found


def _compact(pair: Mapping[str, Any]) -> list[Any]:
    return [
        pair["true_class_id"],
        pair["taken_class_id"],
        pair["images"],
        *(None if pair[name] is None else round(pair[name], 4) for name in words.PAIR_COUNTS),
        pair["moved_to"],
    ]


def _largest(pairs: pl.DataFrame) -> list[float]:
    found = (pairs[name].max() for name in ("before", "after"))
    return [float(value) for value in found if isinstance(value, int | float)]


def _seeds(findings: Findings) -> int:
    return max(1, findings.summary["seed"].n_unique())
