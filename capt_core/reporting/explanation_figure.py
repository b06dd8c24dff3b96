"""The picture of an explanation: the photograph, and what speaks for which of two classes."""

from __future__ import annotations

import re
import warnings
from io import BytesIO
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from capt_core.explanation import Explanation, View
from capt_core.reporter import active

FORMATS = ("png", "svg")

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "capt",
    # In an SVG text stays text, which the reader's fonts draw in any script.
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": "#333840",
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#8a8f98",
}
_PANEL = 1.9  # side of a panel, inches
_GAP = 0.14
_TITLE = 0.5  # above each row
_LEFT, _RIGHT, _BOTTOM = 0.12, 0.95, 0.42
_LONGEST = 26
_LEAST_SCALE = 1e-6
_STRONGEST = 0.85  # opacity of the strongest evidence: the photograph stays visible below it


def draw_explanation(found: Explanation, form: Literal["png", "svg"] = "png") -> bytes:
    """Draw an explanation, one row for each model, all on one scale.

    Columns are the evidence for the first class, for the second, and for the first against the
    second. Red is evidence for: hiding the place lowers the score; blue is against.

    Args:
        found: from `explain`.
        form: of the picture.

    Returns:
        Its bytes; equal explanations give equal bytes.
    """
    views = [found.before, *([] if found.after is None else [found.after]), *found.parts]
    shown = [[view.maps[0], view.maps[1], view.difference] for view in views]
    limit = max(_LEAST_SCALE, *(float(np.abs(each).max()) for row in shown for each in row))
    scale = Normalize(-limit, limit)
    colours = mpl.colormaps["RdBu_r"]
    width = _LEFT + 4 * _PANEL + 3 * _GAP + _RIGHT
    height = len(views) * (_TITLE + _PANEL) + _BOTTOM
    with mpl.rc_context(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=(width, height), dpi=150)

        def panel(row: int, column: int) -> Axes:
            left = _LEFT + column * (_PANEL + _GAP)
            bottom = height - (row + 1) * (_TITLE + _PANEL)
            at = (left / width, bottom / height, _PANEL / width, _PANEL / height)
            axes = figure.add_axes(at)
            axes.set_xticks([])
            axes.set_yticks([])
            return axes

        grey = found.image.mean(axis=2) / 255
        for row, (view, maps) in enumerate(zip(views, shown, strict=True)):
            _describe(panel(row, 0), found, view, photograph=row == 0)
            for column, (title, values) in enumerate(
                zip(_titles(found, view), maps, strict=True), start=1
            ):
                axes = panel(row, column)
                axes.set_title(title, fontsize=9, pad=4, parse_math=False)
                axes.imshow(_overlay(grey, values, scale, colours), interpolation="bilinear")
        bar = figure.add_axes(
            (
                (width - _RIGHT + 0.14) / width,
                (height - _TITLE - _PANEL) / height,
                0.12 / width,
                _PANEL / height,
            )
        )
        figure.colorbar(ScalarMappable(scale, colours), cax=bar)
        bar.tick_params(length=0, labelsize=8)
        bar.set_ylabel("change of the score (logit)", fontsize=8)
        figure.text(
            _LEFT / width,
            0.1 / height,
            "red: hiding this place lowers the score, so it speaks for the class; blue: it speaks "
            "against it",
            fontsize=9,
        )
        picture = _saved(figure, form)
    if form == "png" and any("Glyph" in str(each.message) for each in caught):
        active().warn("the picture's font lacks letters of a class name; an .svg file shows them")
    return picture


def _titles(found: Explanation, view: View) -> tuple[str, str, str]:
    first, second = (_shortened(name) for name in found.classes)
    return (
        f"{first}: {view.probabilities[0]:.1%}",
        f"{second}: {view.probabilities[1]:.1%}",
        f"{_shortened(found.classes[0], 13)} against {_shortened(found.classes[1], 13)}",
    )


def _describe(axes: Axes, found: Explanation, view: View, *, photograph: bool) -> None:
    """The photograph beside the first row; beside each, what the model says."""
    axes.set_title(_shortened(view.name, 32), fontsize=9, pad=4, weight="bold", parse_math=False)
    answer = f"{_shortened(view.prediction)}\n{view.confidence:.1%}"
    if photograph:
        axes.imshow(found.image, interpolation="bilinear")
        axes.set_title(
            f"{_shortened(view.name, 32)}\n{_shortened(view.prediction)}: {view.confidence:.1%}",
            fontsize=9,
            pad=4,
            weight="bold",
            parse_math=False,
        )
        return
    axes.axis("off")
    axes.text(0.5, 0.5, f"says\n{answer}", ha="center", va="center", parse_math=False)


def _overlay(
    grey: NDArray[np.float64], values: NDArray[np.float32], scale: Normalize, colours: Colormap
) -> NDArray[np.float64]:
    """Evidence over a photograph without colours, the stronger the less transparent, [S, S, 3]."""
    light = 0.35 + 0.65 * grey[..., None].repeat(3, axis=2)
    strength = np.abs(values)[..., None] / scale.vmax * _STRONGEST
    tint = np.asarray(colours(scale(values)))[..., :3]
    mixed: NDArray[np.float64] = (1 - strength) * light + strength * tint
    return mixed


def _shortened(name: str, longest: int = _LONGEST) -> str:
    """Both ends of a long name, because similar names often differ at their ends."""
    name = re.sub(r"\s+", " ", name)
    if len(name) <= longest:
        return name
    half = (longest - 1) // 2
    return f"{name[:half].rstrip()}…{name[-half:].lstrip()}"


def _saved(figure: Figure, form: Literal["png", "svg"]) -> bytes:
    buffer = BytesIO()
    if form == "png":
        figure.savefig(buffer, format="png", metadata={"Software": None})
    else:
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    return buffer.getvalue()
