"""Drawing primitives shared by the texture renderers.

A renderer fills a *plane*: float32 of shape (64, 64), 0 where the background colour shows and
1 where the foreground colour does. Lengths are pixels, angles radians.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

IMAGE_SIZE: Final = 64
_TABLE: Final = 32  # cells along each side of the table of random marks; larger than any canvas

Plane: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Canvas:
    """Coordinates a texture is drawn in: already rotated and warped, the origin in the middle.

    Attributes:
        x: horizontal coordinate of each pixel, (64, 64), pixels.
        y: vertical coordinate of each pixel, (64, 64), pixels.
        scale: factor on every length of the texture.
    """

    x: Plane
    y: Plane
    scale: float


@dataclass(frozen=True)
class Mark:
    """One scattered mark near each pixel.

    Attributes:
        dx: pixel minus mark, horizontally, (64, 64), pixels.
        dy: pixel minus mark, vertically, (64, 64), pixels.
        random: uniform numbers in [0, 1) that belong to the mark, (draws, 64, 64).
    """

    dx: Plane
    dy: Plane
    random: Plane


@dataclass(frozen=True)
class Cells:
    """Distances to scattered points: the nearest, the second nearest, and the nearest's number.

    Attributes:
        first: distance to the nearest point, (64, 64), pixels.
        second: distance to the second nearest point, (64, 64), pixels.
        tone: uniform number in [0, 1) that belongs to the nearest point, (64, 64).
    """

    first: Plane
    second: Plane
    tone: Plane


Renderer: TypeAlias = Callable[[np.random.Generator, Canvas], Plane]


def plane(values: Any) -> Plane:
    """The values as float32."""
    return np.asarray(values, dtype=np.float32)


def unit(values: Any) -> Plane:
    """The values as float32, clipped to [0, 1]."""
    return plane(np.clip(values, 0.0, 1.0))


def soft_step(values: Any, width: float) -> Plane:
    """0 below zero, 1 above, with a linear ramp of the given width around zero."""
    return unit(plane(values) / width + 0.5)


def cosine(turns: Any) -> Plane:
    """Cosine of an angle given in full turns."""
    return plane(np.cos(plane(turns) * (2 * math.pi)))


def triangle(turns: Any) -> Plane:
    """Triangle wave in [-1, 1], one period per turn."""
    values = plane(turns)
    return plane(4 * np.abs(values - np.floor(values + 0.5)) - 1)


def rules(turns: Any, duty: float, softness: float = 0.15) -> Plane:
    """Lines centred on the whole turns, each ``duty`` of a period wide."""
    values = plane(turns)
    return soft_step(duty / 2 - np.abs(values - np.round(values)), softness)


def smooth_noise(rng: np.random.Generator, sigma: float) -> Plane:
    """Gaussian noise blurred by ``sigma`` pixels, of unit standard deviation."""
    noise = rng.standard_normal((IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)
    blurred = plane(gaussian_filter(noise, sigma, mode="wrap", truncate=3.0))
    return plane(blurred / (float(blurred.std()) + 1e-6))


def smooth_curve(rng: np.random.Generator, sigma: float) -> Plane:
    """256 values of noise blurred by ``sigma`` samples, of unit standard deviation, (256,)."""
    curve = plane(gaussian_filter(rng.standard_normal(256, dtype=np.float32), sigma, mode="wrap"))
    return plane(curve / (float(curve.std()) + 1e-6))


def lit(rng: np.random.Generator, height: Plane) -> Plane:
    """Brightness in [0, 1] of a relief lit from about the upper left."""
    slope_y, slope_x = np.gradient(height)
    angle = -2.2 + rng.uniform(-0.4, 0.4)
    slope = plane(slope_x * math.cos(angle) + slope_y * math.sin(angle))
    return unit(0.5 + 0.5 * slope / (2.2 * float(slope.std()) + 1e-6))


def scatter(
    rng: np.random.Generator,
    canvas: Canvas,
    spacing: float,
    jitter: float,
    *,
    staggered: bool = False,
    draws: int = 1,
) -> Iterator[Mark]:
    """The nine marks around each pixel, of marks on a jittered square or hexagonal lattice.

    Marks up to about one spacing in radius are drawn whole.

    Args:
        rng: source of the marks' places and numbers.
        canvas: coordinates to draw in.
        spacing: distance between neighbouring marks, pixels.
        jitter: largest displacement of a mark, as a fraction of the spacing.
        staggered: shift every other row by half a spacing.
        draws: uniform numbers per mark.
    """
    pitch = spacing * (0.866 if staggered else 1.0)
    table = rng.random((2 + draws, _TABLE, _TABLE), dtype=np.float32)
    shift_x, shift_y = rng.uniform(0, spacing), rng.uniform(0, spacing)
    x, y = canvas.x + shift_x, canvas.y + shift_y
    own_row = np.floor(y / pitch).astype(np.int64)
    for row_step in (-1, 0, 1):
        row = own_row + row_step
        offset = plane(0.5 * (row & 1)) if staggered else plane(np.zeros_like(x))
        own_column = np.floor(x / spacing - offset).astype(np.int64)
        for column_step in (-1, 0, 1):
            column = own_column + column_step
            random = table[:, row % _TABLE, column % _TABLE]
            centre_x = (column + 0.5 + offset + jitter * (2 * random[0] - 1)) * spacing
            centre_y = (row + 0.5) * pitch + jitter * (2 * random[1] - 1) * spacing
            yield Mark(plane(x - centre_x), plane(y - centre_y), random[2:])


def cells(
    rng: np.random.Generator,
    canvas: Canvas,
    spacing: float,
    jitter: float,
    *,
    staggered: bool = False,
    keep: float = 1.0,
) -> Cells:
    """Distances to the points of a jittered lattice; arguments as in :func:`scatter`.

    Args:
        rng: source of the points.
        canvas: coordinates to draw in.
        spacing: distance between neighbouring points, pixels.
        jitter: largest displacement of a point, as a fraction of the spacing.
        staggered: shift every other row by half a spacing.
        keep: share of the points that exist; the others are left out.
    """
    shape = canvas.x.shape
    first = np.full(shape, 1e6, dtype=np.float32)
    second = first.copy()
    tone = np.zeros(shape, dtype=np.float32)
    for mark in scatter(rng, canvas, spacing, jitter, staggered=staggered):
        squared = mark.dx * mark.dx + mark.dy * mark.dy
        if keep < 1:
            squared = np.where(mark.random[0] < keep, squared, np.float32(1e6))
        nearer = squared < first
        second = np.minimum(second, np.where(nearer, first, squared))
        tone = np.where(nearer, mark.random[0], tone)
        first = np.minimum(first, squared)
    return Cells(plane(np.sqrt(first)), plane(np.sqrt(second)), plane(tone))


def polar(rng: np.random.Generator, canvas: Canvas, reach: float) -> tuple[Plane, Plane]:
    """Radius (pixels) and angle (radians) around a point at most ``reach`` from the middle."""
    x = canvas.x - rng.uniform(-reach, reach)
    y = canvas.y - rng.uniform(-reach, reach)
    return plane(np.sqrt(x * x + y * y) + 1e-3), plane(np.arctan2(y, x))
