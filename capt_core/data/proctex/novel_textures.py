"""Renderers of the novel half: lattices, weaves, cells and flows.

``p`` below is a period or spacing in pixels.
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
    smooth_curve,
    smooth_noise,
    soft_step,
    triangle,
    unit,
)


def _turns(rng: np.random.Generator, canvas: Canvas, p: float) -> tuple[Plane, Plane]:
    """Position in periods along both axes, from a random origin."""
    return plane(canvas.x / p + rng.uniform()), plane(canvas.y / p + rng.uniform())


def _hump(turns: Plane) -> Plane:
    """1 in the middle of each period, 0 at its ends."""
    return plane(np.abs(np.sin(math.pi * turns)))


def grid_plain(rng: np.random.Generator, canvas: Canvas) -> Plane:
    u, v = _turns(rng, canvas, rng.uniform(7, 15) * canvas.scale)
    duty = rng.uniform(0.14, 0.3)
    return plane(np.maximum(rules(u, duty), rules(v, duty)))


def grid_graph_paper(rng: np.random.Generator, canvas: Canvas) -> Plane:
    u, v = _turns(rng, canvas, rng.uniform(14, 20) * canvas.scale)
    fine = np.maximum(rules(2 * u, 0.2, 0.2), rules(2 * v, 0.2, 0.2))
    bold = np.maximum(rules(u, 0.2, 0.1), rules(v, 0.2, 0.1))
    return plane(np.maximum(rng.uniform(0.4, 0.65) * fine, bold))


def grid_double(rng: np.random.Generator, canvas: Canvas) -> Plane:
    u, v = _turns(rng, canvas, rng.uniform(12, 18) * canvas.scale)
    pair_u = np.maximum(rules(u, 0.1, 0.1), rules(u + 0.24, 0.1, 0.1))
    pair_v = np.maximum(rules(v, 0.1, 0.1), rules(v + 0.24, 0.1, 0.1))
    return plane(np.maximum(pair_u, pair_v))


def chequered_board(rng: np.random.Generator, canvas: Canvas) -> Plane:
    u, v = _turns(rng, canvas, rng.uniform(12, 24) * canvas.scale)
    return soft_step(cosine(u) * cosine(v), 0.25)


def chequered_gingham(rng: np.random.Generator, canvas: Canvas) -> Plane:
    u, v = _turns(rng, canvas, rng.uniform(12, 22) * canvas.scale)
    return plane(0.5 * soft_step(cosine(u), 0.3) + 0.5 * soft_step(cosine(v), 0.3))


def chequered_oblong(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(11, 17) * canvas.scale
    u, v = canvas.x / p + rng.uniform(), canvas.y / (p * rng.uniform(1.6, 2.1)) + rng.uniform()
    return soft_step(cosine(u) * cosine(v), 0.25)


def _diagonals(rng: np.random.Generator, canvas: Canvas, p: float) -> tuple[Plane, Plane]:
    a = (canvas.x + canvas.y) * 0.7071 / p + rng.uniform()
    b = (canvas.x - canvas.y) * 0.7071 / p * rng.uniform(0.8, 1.2) + rng.uniform()
    return plane(a), plane(b)


def meshed_net(rng: np.random.Generator, canvas: Canvas) -> Plane:
    a, b = _diagonals(rng, canvas, rng.uniform(4.5, 8.5) * canvas.scale)
    duty = rng.uniform(0.22, 0.4)
    return plane(np.maximum(rules(a, duty, 0.25), rules(b, duty, 0.25)))


def meshed_chain_link(rng: np.random.Generator, canvas: Canvas) -> Plane:
    a, b = _diagonals(rng, canvas, rng.uniform(6, 10) * canvas.scale)
    bend = rng.uniform(0.08, 0.16)
    first = rules(a + bend * cosine(b / 2), 0.24, 0.2)
    second = rules(b + bend * cosine(a / 2), 0.24, 0.2)
    return plane(np.maximum(first, 0.75 * second))


def _strokes(rng: np.random.Generator, canvas: Canvas, angle: float) -> Plane:
    p = rng.uniform(4.5, 8) * canvas.scale
    turns = (canvas.x * math.cos(angle) + canvas.y * math.sin(angle)) / p + rng.uniform()
    pressure = unit(0.75 + 0.35 * smooth_noise(rng, 4))
    return plane(
        rules(turns + 0.12 * smooth_noise(rng, 6), rng.uniform(0.16, 0.34), 0.3) * pressure
    )


def crosshatched_two_ways(rng: np.random.Generator, canvas: Canvas) -> Plane:
    turn = rng.uniform(0.5, 1.1)
    return plane(np.maximum(_strokes(rng, canvas, 0.0), _strokes(rng, canvas, turn)))


def crosshatched_three_ways(rng: np.random.Generator, canvas: Canvas) -> Plane:
    turn = rng.uniform(0.6, 1.0)
    two = np.maximum(_strokes(rng, canvas, 0.0), _strokes(rng, canvas, turn))
    return plane(np.maximum(two, _strokes(rng, canvas, 2 * turn)))


def waffled_deep(rng: np.random.Generator, canvas: Canvas) -> Plane:
    u, v = _turns(rng, canvas, rng.uniform(9, 15) * canvas.scale)
    depth = plane(np.minimum(_hump(u), _hump(v)) ** rng.uniform(0.5, 1))
    share = rng.uniform(0.2, 0.7)
    return unit((1 - share) * (1 - depth) + share * lit(rng, plane(1 - depth)))


def waffled_bevelled(rng: np.random.Generator, canvas: Canvas) -> Plane:
    u, v = _turns(rng, canvas, rng.uniform(11, 17) * canvas.scale)
    x, y = u - np.round(u), v - np.round(v)
    outer, inner = 0.4, rng.uniform(0.16, 0.24)
    reach = np.maximum(np.abs(x), np.abs(y))
    side = np.where(np.abs(x) > np.abs(y), np.sign(x), np.sign(y))
    picture = np.where(reach < outer, 0.5 + 0.25 * side, 0.95)
    return plane(np.where(reach < inner, 0.15, picture))


def _over_under(rng: np.random.Generator, u: Plane, v: Plane, strands: int) -> Plane:
    parity = (np.floor(u) + np.floor(v)) % 2
    shape = rng.uniform(0.3, 0.8)
    warp = _hump(plane(u * strands)) ** shape * (0.4 + 0.6 * _hump(v))
    weft = _hump(plane(v * strands)) ** shape * (0.4 + 0.6 * _hump(u))
    return plane(np.where(parity > 0, warp, rng.uniform(0.6, 0.85) * weft))


def woven_plain(rng: np.random.Generator, canvas: Canvas) -> Plane:
    u, v = _turns(rng, canvas, rng.uniform(7, 13) * canvas.scale)
    return _over_under(rng, u, v, 1)


def woven_basket(rng: np.random.Generator, canvas: Canvas) -> Plane:
    u, v = _turns(rng, canvas, rng.uniform(11, 17) * canvas.scale)
    return _over_under(rng, u, v, int(rng.integers(2, 4)))


def woven_twill(rng: np.random.Generator, canvas: Canvas) -> Plane:
    u, v = _turns(rng, canvas, rng.uniform(5, 8) * canvas.scale)
    over = (np.floor(u) + np.floor(v)) % 4 < 2
    return plane(np.where(over, 0.3 + 0.7 * _hump(u), 0.55 * _hump(v)))


def braided_plaits(rng: np.random.Generator, canvas: Canvas) -> Plane:
    width = rng.uniform(11, 17) * canvas.scale
    p = rng.uniform(6, 9) * canvas.scale
    column = canvas.x / width + rng.uniform()
    within = column - np.floor(column)
    side = np.where(np.floor(column) % 2 > 0, 1.0, -1.0)
    slant = side * (within - 0.5) * width / p * rng.uniform(0.6, 1.1)
    strand = _hump(plane(canvas.y / p + slant)) ** rng.uniform(0.5, 1.0)
    return unit(strand * (0.3 + 0.7 * np.sin(math.pi * within)))


def braided_cords(rng: np.random.Generator, canvas: Canvas) -> Plane:
    width = rng.uniform(16, 24) * canvas.scale
    length = rng.uniform(14, 20) * canvas.scale
    column = canvas.x / width + rng.uniform()
    x = 2 * (column - np.floor(column)) - 1
    phase = canvas.y / length + rng.uniform()
    picture = np.zeros_like(canvas.x)
    top = np.full_like(canvas.x, -2.0)
    for strand in range(3):
        turns = phase + strand / 3
        # A strand swings once while it rises and sinks twice: the figure of a three-strand plait.
        offset = np.abs(x - 0.58 * cosine(turns)) / 0.38
        depth = np.where(offset < 1, cosine(2 * turns + 0.25), -2.0)
        picture = np.where(depth > top, np.sqrt(np.clip(1 - offset**2, 0, 1)), picture)
        top = np.maximum(top, depth)
    return plane(picture)


def zigzagged_stripes(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p, length = rng.uniform(8, 13) * canvas.scale, rng.uniform(11, 20) * canvas.scale
    swing = rng.uniform(0.3, 0.7)
    turns = canvas.x / p + swing * triangle(canvas.y / length + rng.uniform())
    return soft_step(cosine(turns), 0.45)


def zigzagged_lines(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p, length = rng.uniform(8, 13) * canvas.scale, rng.uniform(11, 20) * canvas.scale
    swing = rng.uniform(0.35, 0.7)
    turns = canvas.x / p + swing * triangle(canvas.y / length + rng.uniform())
    return rules(turns + rng.uniform(), rng.uniform(0.22, 0.34), 0.2)


def honeycombed_walls(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(8.5, 15) * canvas.scale
    points = cells(rng, canvas, p, rng.uniform(0, 0.1), staggered=True)
    return soft_step(rng.uniform(1.0, 2.2) - (points.second - points.first), 1.5)


def honeycombed_deep(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(9, 15) * canvas.scale
    points = cells(rng, canvas, p, rng.uniform(0, 0.06), staggered=True)
    wall = soft_step(rng.uniform(1.0, 1.8) - (points.second - points.first), 1.2)
    return unit(np.maximum(wall, 0.6 * (points.first / (0.5 * p)) ** 2))


def _scales(canvas: Canvas, p: float, shift: float) -> Plane:
    """Distance from the root of the scale that shows at a pixel, 0 to 1 at its round edge."""
    row = np.floor(canvas.y / (0.5 * p))
    picture = np.zeros_like(canvas.x)
    free = np.ones(canvas.x.shape, dtype=np.bool_)
    for above in (1, 0, -1):  # a scale covers the roots of the row below it
        own = row - above
        column = canvas.x / p + 0.5 * (own % 2) + shift
        across = (column - np.floor(column) - 0.5) * p
        down = canvas.y - own * 0.5 * p
        distance = np.hypot(across, np.maximum(down, 0)) / (0.56 * p)
        here = (distance < 1) & free
        picture = np.where(here, distance, picture)
        free &= ~here
    return plane(picture)


def scaly_fish(rng: np.random.Generator, canvas: Canvas) -> Plane:
    distance = _scales(canvas, rng.uniform(9, 15) * canvas.scale, rng.uniform())
    return unit(distance ** rng.uniform(1.2, 2.6))


def scaly_outlined(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(10, 16) * canvas.scale
    distance = _scales(canvas, p, rng.uniform())
    rings = int(rng.integers(1, 3))
    edge = soft_step(distance - 1 + 1.8 / p, 0.12)
    return plane(np.maximum(edge, 0.45 * rules(distance * rings, 0.2, 0.2) * (rings > 1)))


def marbled_stone(rng: np.random.Generator, canvas: Canvas) -> Plane:
    flow = smooth_noise(rng, 6 * canvas.scale) * rng.uniform(2.5, 5)
    flow = plane(flow + smooth_noise(rng, 3 * canvas.scale) * rng.uniform(0.8, 2))
    flow = plane(flow + 0.4 * smooth_noise(rng, 1.5))
    wave = 0.5 + 0.5 * cosine((canvas.x + flow) / rng.uniform(14, 26))
    return unit(wave ** rng.uniform(0.7, 2.2))


def marbled_streaks(rng: np.random.Generator, canvas: Canvas) -> Plane:
    turbulence = 0.35 * smooth_noise(rng, 6 * canvas.scale) + 0.09 * smooth_noise(rng, 2.2)
    along = plane(canvas.x / (rng.uniform(16, 26) * canvas.scale) + turbulence)
    streak = 1 - np.abs(triangle(along + rng.uniform()))
    cloud = 0.5 + 0.2 * smooth_noise(rng, 4)
    return unit(streak ** rng.uniform(2.5, 4) + 0.45 * cloud)


def swirly_vortices(rng: np.random.Generator, canvas: Canvas) -> Plane:
    x, y = canvas.x, canvas.y
    for _ in range(int(rng.integers(2, 5))):
        centre_x, centre_y = rng.uniform(-24, 24), rng.uniform(-24, 24)
        dx, dy = x - centre_x, y - centre_y
        reach = rng.uniform(9, 14) * canvas.scale
        strength = rng.uniform(2, 4) * (1 if rng.random() < 0.5 else -1)
        angle = strength * np.exp(-(dx * dx + dy * dy) / (2 * reach**2))
        x = plane(centre_x + dx * np.cos(angle) - dy * np.sin(angle))
        y = plane(centre_y + dx * np.sin(angle) + dy * np.cos(angle))
    p = rng.uniform(7, 12) * canvas.scale
    return soft_step(cosine(x / p + rng.uniform()), rng.uniform(0.5, 1.5))


def swirly_contours(rng: np.random.Generator, canvas: Canvas) -> Plane:
    hills = smooth_noise(rng, rng.uniform(6.5, 9) * canvas.scale)
    return soft_step(cosine(hills * rng.uniform(1.0, 1.7) + rng.uniform()), rng.uniform(0.5, 1.4))


def spiralled_coil(rng: np.random.Generator, canvas: Canvas) -> Plane:
    radius, angle = polar(rng, canvas, 14)
    arms = int(rng.integers(1, 4)) * (1 if rng.random() < 0.5 else -1)
    turns = radius / (rng.uniform(7, 13) * canvas.scale) + arms * angle / (2 * math.pi)
    return soft_step(cosine(turns + rng.uniform()), rng.uniform(0.4, 1.4))


def spiralled_arms(rng: np.random.Generator, canvas: Canvas) -> Plane:
    radius, angle = polar(rng, canvas, 12)
    arms = int(rng.integers(2, 5)) * (1 if rng.random() < 0.5 else -1)
    turns = rng.uniform(1.2, 2.2) * np.log(radius + 2) + arms * angle / (2 * math.pi)
    return soft_step(cosine(turns + rng.uniform()), rng.uniform(0.4, 1.2))


def spiralled_rows(rng: np.random.Generator, canvas: Canvas) -> Plane:
    p = rng.uniform(22, 30) * canvas.scale
    u, v = _turns(rng, canvas, p)
    x, y = (u - np.round(u)) * p, (v - np.round(v)) * p
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    turns = radius / (0.26 * p) + angle / (2 * math.pi)
    inside = soft_step(0.48 * p - radius, 2)
    return plane(soft_step(cosine(turns), 0.8) * inside)


def stratified_layers(rng: np.random.Generator, canvas: Canvas) -> Plane:
    layers = smooth_curve(rng, rng.uniform(1.2, 2.6) * canvas.scale)
    wave = smooth_noise(rng, rng.uniform(7, 11)) * rng.uniform(1, 3)
    depth = np.interp(canvas.y + wave + 128, np.arange(256), layers)
    tones = int(rng.integers(3, 6))
    return unit(np.floor((0.35 * depth + 0.5) * tones) / (tones - 1))


def stratified_sediment(rng: np.random.Generator, canvas: Canvas) -> Plane:
    layers = smooth_curve(rng, rng.uniform(1.0, 2.2) * canvas.scale)
    wave = smooth_noise(rng, rng.uniform(8, 12)) * rng.uniform(1.5, 3.5)
    depth = plane(np.interp(canvas.y + wave + 128, np.arange(256), layers))
    return unit(0.5 + 0.35 * depth + 0.06 * smooth_noise(rng, 0.8))


def blotchy_stains(rng: np.random.Generator, canvas: Canvas) -> Plane:
    stains = smooth_noise(rng, rng.uniform(3.5, 6) * canvas.scale) + 0.3 * smooth_noise(rng, 1.8)
    return soft_step(stains - rng.uniform(-0.4, 0.7), rng.uniform(0.5, 1.6))


def blotchy_watercolour(rng: np.random.Generator, canvas: Canvas) -> Plane:
    wash = smooth_noise(rng, rng.uniform(4, 6.5) * canvas.scale) + 0.15 * smooth_noise(rng, 1.5)
    level = rng.uniform(0, 0.5)
    inside = soft_step(wash - level, 0.3)
    rim = np.exp(-(((wash - level - 0.1) / 0.16) ** 2))
    return unit(0.6 * inside + 0.45 * rim)


NOVEL_RENDERERS: dict[str, tuple[Renderer, ...]] = {
    "grid": (grid_plain, grid_graph_paper, grid_double),
    "chequered": (chequered_board, chequered_gingham, chequered_oblong),
    "meshed": (meshed_net, meshed_chain_link),
    "crosshatched": (crosshatched_two_ways, crosshatched_three_ways),
    "waffled": (waffled_deep, waffled_bevelled),
    "woven": (woven_plain, woven_basket, woven_twill),
    "braided": (braided_plaits, braided_cords),
    "zigzagged": (zigzagged_stripes, zigzagged_lines),
    "honeycombed": (honeycombed_walls, honeycombed_deep),
    "scaly": (scaly_fish, scaly_outlined),
    "marbled": (marbled_stone, marbled_streaks),
    "swirly": (swirly_vortices, swirly_contours),
    "spiralled": (spiralled_coil, spiralled_arms, spiralled_rows),
    "stratified": (stratified_layers, stratified_sediment),
    "blotchy": (blotchy_stains, blotchy_watercolour),
}
