"""Renderers of the base half: stripes, dots, relief and cracks.

``p`` below is a period or spacing in pixels; the ranges keep each texture nameable by a person
while leaving neighbours such as striped and banded close.
"""

from __future__ import annotations

import math

import numpy as np

from capt_core.data.proctex.drawing import (
    Canvas,
    Plane,
    Renderer,
    cells,
    cosine,
    lit,
    plane,
    polar,
    rules,
    scatter,
    smooth_noise,
    soft_step,
    triangle,
    unit,
)


def _uneven(rng: np.random.Generator, canvas: Canvas, period: float) -> Plane:
    """Turns along x whose rate drifts, so that neighbouring bands differ in width."""
    turns = canvas.x / period + rng.uniform()
    drift = rng.uniform(0.1, 0.28)
    return plane(turns + drift * cosine(turns * rng.uniform(0.3, 0.6) + rng.uniform()))


def banded_two_tone(rng: np.random.Generator, canvas: Canvas) -> Plane:
    turns = _uneven(rng, canvas, rng.uniform(12, 21) * canvas.scale)
    return soft_step(rng.uniform(-0.5, 0.5) + cosine(turns), 0.35)


def banded_many_tones(rng: np.random.Generator, canvas: Canvas) -> Plane:
    turns = _uneven(rng, canvas, rng.uniform(13, 22) * canvas.scale)
    tones = rng.random(64, dtype=np.float32) * 0.5
    tones[1::2] += 0.5
    return plane(tones[np.floor(2 * turns).astype(np.int64) % 64])


def striped_even(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(7, 13) * canvas.scale
    return soft_step(rng.uniform(-0.2, 0.2) + cosine(canvas.x / p + rng.uniform()), 0.5)


def striped_awning(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(8, 14) * canvas.scale
    turns = canvas.x / p + rng.uniform()
    stripe = soft_step(cosine(turns), 0.3)
    fold = 0.5 + 0.5 * cosine(2 * turns)
    return unit(stripe * (0.7 + 0.3 * fold) + 0.12 * (1 - fold) * (1 - stripe))


def lined_ruled(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(5, 11) * canvas.scale
    return rules(canvas.x / p + rng.uniform(), rng.uniform(0.14, 0.34), 0.2)


def lined_by_hand(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(6, 11) * canvas.scale
    turns = canvas.x / p + rng.uniform() + 0.08 * smooth_noise(rng, 5)
    return plane(
        rules(turns, rng.uniform(0.16, 0.3), 0.2) * unit(0.85 + 0.2 * smooth_noise(rng, 4))
    )


def lined_double(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(10, 15) * canvas.scale
    turns = canvas.x / p + rng.uniform()
    gap, duty = rng.uniform(0.26, 0.34), rng.uniform(0.12, 0.18)
    return plane(np.maximum(rules(turns, duty, 0.1), rules(turns + gap, duty, 0.1)))


def grooved_ridges(rng: np.random.Generator, canvas: Canvas) -> Plane:
    turns = canvas.x / (rng.uniform(5, 11) * canvas.scale) + rng.uniform()
    share = rng.uniform(0.5, 1.0)
    ramp = 2 * (turns - np.floor(turns)) - 1
    return unit(0.5 + 0.5 * (share * cosine(turns) + (1 - share) * ramp))


def grooved_furrows(rng: np.random.Generator, canvas: Canvas) -> Plane:
    turns = canvas.x / (rng.uniform(7, 12) * canvas.scale) + rng.uniform()
    offset = turns - np.round(turns)
    width = rng.uniform(0.12, 0.18)
    depth = np.exp(-(offset**2) / (2 * width**2))
    return unit(0.55 - 0.5 * depth + 1.6 * depth * offset / width * 0.45)


def dotted_loose(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(5.5, 10) * canvas.scale
    points = cells(rng, canvas, p, rng.uniform(0.1, 0.38), keep=rng.uniform(0.8, 1.0))
    return soft_step(rng.uniform(0.18, 0.3) * p - points.first, 1.4)


def dotted_rows(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(5.5, 9) * canvas.scale
    points = cells(rng, canvas, p, rng.uniform(0, 0.05), staggered=rng.random() < 0.5)
    return soft_step(rng.uniform(0.18, 0.28) * p - points.first, 1.4)


def dotted_two_sizes(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(6.5, 10) * canvas.scale
    points = cells(rng, canvas, p, 0.25, staggered=True)
    radius = np.where(points.tone < 0.5, 0.15, 0.3) * p
    return soft_step(radius - points.first, 1.2)


def polka_dotted_plain(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(10, 16) * canvas.scale
    points = cells(rng, canvas, p, rng.uniform(0, 0.1), staggered=rng.random() < 0.6)
    return soft_step(rng.uniform(0.26, 0.38) * p - points.first, 1.4)


def polka_dotted_shades(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(10, 16) * canvas.scale
    points = cells(rng, canvas, p, rng.uniform(0, 0.06), staggered=True)
    return plane(
        soft_step(rng.uniform(0.28, 0.38) * p - points.first, 1.2) * (0.6 + 0.4 * points.tone)
    )


def flecked_paint(rng: np.random.Generator, canvas: Canvas) -> Plane:
    grain = smooth_noise(rng, rng.uniform(0.9, 1.6) * canvas.scale)
    return soft_step(grain - rng.uniform(1.1, 1.7), 0.5)


def flecked_chips(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(5, 8) * canvas.scale
    best = plane(np.zeros_like(canvas.x))
    for mark in scatter(rng, canvas, p, 0.45, draws=3):
        angle = 2 * math.pi * mark.random[0]
        along = mark.dx * np.cos(angle) + mark.dy * np.sin(angle)
        across = mark.dy * np.cos(angle) - mark.dx * np.sin(angle)
        size = (0.05 + 0.27 * mark.random[1]) * p
        chip = soft_step(size - np.abs(along) - 1.5 * np.abs(across), 0.9)
        best = plane(np.maximum(best, chip * (mark.random[2] < 0.75)))
    return best


def _sticks(rng: np.random.Generator, canvas: Canvas, p: float, faintest: float) -> Plane:
    width = rng.uniform(0.8, 1.4)
    best = plane(np.zeros_like(canvas.x))
    for mark in scatter(rng, canvas, p, 0.4, draws=3):
        angle = math.pi * mark.random[0]
        along = mark.dx * np.cos(angle) + mark.dy * np.sin(angle)
        across = mark.dy * np.cos(angle) - mark.dx * np.sin(angle)
        half_length = (0.22 + 0.25 * mark.random[1]) * p
        beyond = np.maximum(np.abs(along) - half_length, 0)
        stick = soft_step(width - np.sqrt(beyond**2 + across**2), 1.0)
        best = plane(np.maximum(best, stick * (faintest + (1 - faintest) * mark.random[2])))
    return best


def sprinkled_sugar(rng: np.random.Generator, canvas: Canvas) -> Plane:
    return _sticks(rng, canvas, rng.uniform(6.5, 9.5) * canvas.scale, 0.85)


def sprinkled_mixed(rng: np.random.Generator, canvas: Canvas) -> Plane:
    return _sticks(rng, canvas, rng.uniform(6.5, 9.5) * canvas.scale, 0.4)


def bubbly_rings(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(9, 14) * canvas.scale
    wall, fill = rng.uniform(0.8, 1.4), rng.uniform(0.1, 0.4)
    picture = plane(np.zeros_like(canvas.x))
    for mark in scatter(rng, canvas, p, 0.35, draws=2):
        radius = (0.2 + 0.42 * mark.random[0]) * p
        distance = np.sqrt(mark.dx**2 + mark.dy**2)
        ring = np.maximum(soft_step(wall - np.abs(distance - radius), 1.0), fill)
        picture = plane(np.where(distance < radius + wall, ring, picture))
        glint = np.hypot(mark.dx + 0.35 * radius, mark.dy + 0.35 * radius)
        picture = plane(np.maximum(picture, soft_step(0.25 * radius - glint, 1.0)))
    return picture


def bubbly_foam(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(8, 13) * canvas.scale
    picture = plane(np.full_like(canvas.x, 0.1))
    for mark in scatter(rng, canvas, p, 0.3, draws=1):
        radius = (0.4 + 0.3 * mark.random[0]) * p
        distance = np.sqrt(mark.dx**2 + mark.dy**2) / radius
        picture = plane(np.where(distance < 1, 0.15 + 0.85 * distance**4, picture))
        glint = np.hypot(mark.dx + 0.35 * radius, mark.dy + 0.35 * radius)
        picture = plane(np.maximum(picture, soft_step(0.2 * radius - glint, 1.2)))
    return picture


def bubbly_outlines(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(9, 13) * canvas.scale
    picture = plane(np.zeros_like(canvas.x))
    for mark in scatter(rng, canvas, p, 0.35, draws=1):
        radius = (0.15 + 0.5 * mark.random[0]) * p
        ring = soft_step(0.8 - np.abs(np.hypot(mark.dx, mark.dy) - radius), 0.9)
        picture = plane(np.maximum(picture, ring))
    return picture


def bumpy_knobs(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(7, 13) * canvas.scale
    points = cells(rng, canvas, p, rng.uniform(0.1, 0.35), staggered=True)
    height = plane(np.exp(-((points.first / (rng.uniform(0.28, 0.4) * p)) ** 2) / 2))
    share = rng.uniform(0, 0.35)
    return unit((1 - share) * lit(rng, height) + share * height)


def bumpy_pebbles(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(8, 13) * canvas.scale
    points = cells(rng, canvas, p, rng.uniform(0.25, 0.4), staggered=True)
    height = plane(np.sqrt(np.clip(1 - (points.first / (0.62 * p)) ** 2, 0.05, 1)))
    edge = soft_step(points.second - points.first - 0.8, 2.0)
    return unit((0.25 + 0.75 * lit(rng, height)) * (0.35 + 0.65 * edge))


def pitted_dents(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(6.5, 11) * canvas.scale
    keep = rng.uniform(0.65, 0.95)
    points = cells(rng, canvas, p, rng.uniform(0.25, 0.45), staggered=True, keep=keep)
    depth = plane(np.exp(-((points.first / (rng.uniform(0.19, 0.3) * p)) ** 2) / 2))
    share = rng.uniform(0, 0.35)
    return unit((1 - share) * lit(rng, plane(-depth)) + share * (1 - depth))


def pitted_craters(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(7, 12) * canvas.scale
    picture = plane(np.full_like(canvas.x, rng.uniform(0.55, 0.7)))
    for mark in scatter(rng, canvas, p, 0.4, draws=1):
        radius = (0.12 + 0.2 * mark.random[0]) * p
        distance = np.hypot(mark.dx, mark.dy)
        side = (mark.dx + mark.dy) / (1.414 * radius)
        inside = soft_step(radius - distance, 1.2)
        picture = plane(picture * (1 - inside) + inside * unit(0.25 + 0.5 * side))
    return picture


def porous_sponge(rng: np.random.Generator, canvas: Canvas) -> Plane:
    noise = smooth_noise(rng, rng.uniform(1.6, 2.8) * canvas.scale) + 0.35 * smooth_noise(rng, 1.0)
    return plane(1 - soft_step(noise - rng.uniform(0.5, 1.0), 0.5))


def porous_holes(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(5.5, 9) * canvas.scale
    ragged = 0.5 * smooth_noise(rng, 1.2)
    picture = plane(unit(0.85 + 0.08 * smooth_noise(rng, 1.0)))
    for mark in scatter(rng, canvas, p, 0.45, draws=1):
        radius = (0.1 + 0.45 * mark.random[0] ** 2) * p
        hole = soft_step(radius + ragged - np.hypot(mark.dx, mark.dy), 1.2)
        picture = plane(np.minimum(picture, 1 - 0.95 * hole))
    return picture


def cracked_mud(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(10, 18) * canvas.scale
    plates = cells(rng, _jagged(rng, canvas), p, 0.48)
    gap = soft_step(rng.uniform(0.6, 1.4) - (plates.second - plates.first), 1.3)
    return plane(np.maximum(gap, 0.25 * plates.tone))


def cracked_glaze(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(9, 16) * canvas.scale
    plates = cells(rng, _jagged(rng, canvas), p, 0.48)
    return soft_step(rng.uniform(0.5, 1.1) - (plates.second - plates.first), 1.2)


def cracked_fissures(rng: np.random.Generator, canvas: Canvas) -> Plane:
    jagged = _jagged(rng, canvas)
    coarse = cells(rng, jagged, rng.uniform(18, 26) * canvas.scale, 0.48)
    fine = cells(rng, jagged, rng.uniform(8, 12) * canvas.scale, 0.48)
    wide = soft_step(rng.uniform(1.6, 2.6) - (coarse.second - coarse.first), 1.4)
    return plane(np.maximum(wide, 0.7 * soft_step(0.7 - (fine.second - fine.first), 1.2)))


def _jagged(rng: np.random.Generator, canvas: Canvas) -> Canvas:
    reach = rng.uniform(0.4, 1.1)
    return Canvas(
        plane(canvas.x + reach * smooth_noise(rng, 1.8)),
        plane(canvas.y + reach * smooth_noise(rng, 1.8)),
        canvas.scale,
    )


def _web(rng: np.random.Generator, radius: Plane, angle: Plane, spokes: int, pitch: float) -> Plane:
    turns = angle / (2 * math.pi) * spokes + rng.uniform()
    offset = np.abs(turns - np.round(turns)) * 2 * math.pi / spokes
    spoke = soft_step(rng.uniform(0.5, 0.9) - offset * radius, 1.2)
    middle = (turns - np.floor(turns) - 0.5) * 2 * math.pi / spokes
    sagging = radius * (0.5 + 0.5 * np.cos(middle) ** rng.uniform(1, 6))
    ring = rules(sagging / pitch + rng.uniform(), rng.uniform(0.16, 0.28), 0.2)
    return plane(np.maximum(spoke, ring))


def cobwebbed_centre(rng: np.random.Generator, canvas: Canvas) -> Plane:
    radius, angle = polar(rng, canvas, 16)
    pitch = rng.uniform(5.5, 9) * canvas.scale
    return _web(rng, radius, angle, int(rng.integers(8, 15)), pitch)


def cobwebbed_corner(rng: np.random.Generator, canvas: Canvas) -> Plane:
    towards = rng.uniform(0, 2 * math.pi)
    moved = Canvas(
        plane(canvas.x - 32 * math.cos(towards)),
        plane(canvas.y - 32 * math.sin(towards)),
        canvas.scale,
    )
    radius, angle = polar(rng, moved, 4)
    return _web(rng, radius, angle, int(rng.integers(14, 24)), rng.uniform(6, 10) * canvas.scale)


def veined_stone(rng: np.random.Generator, canvas: Canvas) -> Plane:
    main = smooth_noise(rng, rng.uniform(3.5, 5.5) * canvas.scale) + 0.25 * smooth_noise(rng, 1.8)
    side = smooth_noise(rng, rng.uniform(2.5, 4) * canvas.scale)
    veins = soft_step(rng.uniform(0.06, 0.14) - np.abs(main), 0.15)
    return plane(np.maximum(veins, 0.7 * soft_step(0.08 - np.abs(side), 0.12)))


def veined_leaf(rng: np.random.Generator, canvas: Canvas) -> Plane:
    x = canvas.x + rng.uniform(-10, 10) + 1.2 * smooth_noise(rng, 6)
    slant, p = rng.uniform(0.5, 1.1), rng.uniform(9, 14) * canvas.scale
    midrib = soft_step(rng.uniform(1.0, 1.8) - np.abs(x), 1.2)
    along = (canvas.y + slant * np.abs(x) - 0.006 * x**2) / p + rng.uniform()
    ribs = rules(along + 0.04 * smooth_noise(rng, 3), rng.uniform(0.1, 0.16), 0.12)
    across = rules(np.abs(x) / (0.6 * p) + 0.5 * triangle(along), 0.1, 0.15)
    return plane(np.maximum(np.maximum(midrib, ribs), 0.35 * across))


BASE_RENDERERS: dict[str, tuple[Renderer, ...]] = {
    "banded": (banded_two_tone, banded_many_tones),
    "striped": (striped_even, striped_awning),
    "lined": (lined_ruled, lined_by_hand, lined_double),
    "grooved": (grooved_ridges, grooved_furrows),
    "dotted": (dotted_loose, dotted_rows, dotted_two_sizes),
    "polka-dotted": (polka_dotted_plain, polka_dotted_shades),
    "flecked": (flecked_paint, flecked_chips),
    "sprinkled": (sprinkled_sugar, sprinkled_mixed),
    "bubbly": (bubbly_rings, bubbly_foam, bubbly_outlines),
    "bumpy": (bumpy_knobs, bumpy_pebbles),
    "pitted": (pitted_dents, pitted_craters),
    "porous": (porous_sponge, porous_holes),
    "cracked": (cracked_mud, cracked_glaze, cracked_fissures),
    "cobwebbed": (cobwebbed_centre, cobwebbed_corner),
    "veined": (veined_stone, veined_leaf),
}
