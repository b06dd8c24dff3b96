"""Cosine K-means of class means (eq. 12): sizes, order, and that it repeats."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capt_core.artifacts.schemas import PROMPT_CLUSTERS
from capt_core.artifacts.tables import schema_problem
from capt_core.prompts.clustering import class_means, cluster_centres, cluster_table, unit
from tests.processes import python

Array = npt.NDArray[np.float64]


def angles(*degrees: float) -> Array:
    """Unit vectors in the plane."""
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def directions(rows: int, seed: int, width: int = 4) -> Array:
    return unit(np.random.default_rng(seed).standard_normal((rows, width)))


def test_unit_by_hand() -> None:
    np.testing.assert_allclose(unit(np.array([[3.0, 4.0], [0.0, -2.0]])), [[0.6, 0.8], [0.0, -1.0]])


def test_class_means_by_hand() -> None:
    embeddings = angles(0, 90, 180, 0, 10)
    described, means = class_means(embeddings, np.array([7, 7, 2, 5, 5]))
    assert described.tolist() == [2, 5, 7]
    np.testing.assert_allclose(means, angles(180, 5, 45), atol=1e-12)
    assert means.dtype == np.float64


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("points", "clusters", "centres", "labels"),
    [
        # Two near 0 degrees, three near 90, one at 200: largest cluster first.
        ([0, 88, 92, 10, 90, 200], 3, [90, 5, 200], [1, 0, 0, 1, 0, 2]),
        # Equal clusters are ordered by their first member.
        ([200, 90, 0, 92, 2, 202], 3, [201, 91, 1], [0, 1, 2, 1, 2, 0]),
        # There are no more clusters than classes, and each is its own centre, in order.
        ([0, 120, 240], 5, [0, 120, 240], [0, 1, 2]),
        ([30], 5, [30], [0]),
        # Classes that say the same share a centre.
        ([0, 90, 0, 0], 4, [0, 90], [0, 1, 0, 0]),
    ],
)
def test_centres_by_hand(
    points: list[float], clusters: int, centres: list[float], labels: list[int]
) -> None:
    found, taken = cluster_centres(angles(*points), clusters, 10, 0)
    assert taken.tolist() == labels
    np.testing.assert_allclose(found, angles(*centres), atol=1e-6)
    assert found.dtype == np.float32


@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 999))
def test_centres_of_any_points(rows: int, clusters: int, seed: int) -> None:
    points = directions(rows, seed)
    centres, labels = cluster_centres(points, clusters, 3, seed)
    assert len(centres) == min(clusters, rows)
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-5)
    sizes = np.bincount(labels, minlength=len(centres))
    assert sizes.min() >= 1
    assert sizes.tolist() == sorted(sizes, reverse=True)
    first = [int(np.flatnonzero(labels == k)[0]) for k in range(len(centres))]
    assert all(
        (-sizes[k], first[k]) < (-sizes[k + 1], first[k + 1]) for k in range(len(centres) - 1)
    )
    for k in range(len(centres)):
        mean = points[labels == k].mean(axis=0)
        np.testing.assert_allclose(centres[k], mean / np.linalg.norm(mean), atol=2e-6)


def test_the_number_of_threads_does_not_matter() -> None:
    program = (
        "from tests.prompts.test_clustering import *; "
        "print(cluster_centres(directions(300, 0, 64), 7, 3, 1)[0].tobytes().hex())"
    )
    done = python("-c", program, OMP_NUM_THREADS="3", OPENBLAS_NUM_THREADS="3")
    found = cluster_centres(directions(300, 0, 64), 7, 3, 1)[0]
    assert done.stdout == f"{found.tobytes().hex()}\n"


def test_noise_of_the_last_digit_does_not_reach_the_centres() -> None:
    # Another processor rounds differently; six decimals of well-separated centres stay.
    points = angles(0, 10, 88, 92, 90, 200)
    noisy = points + 1e-12 * np.random.default_rng(0).standard_normal(points.shape)
    one, two = cluster_centres(points, 3, 10, 0), cluster_centres(noisy, 3, 10, 0)
    assert one[0].tobytes() == two[0].tobytes()


def test_the_table_says_what_fell_together() -> None:
    prompts = pl.DataFrame(
        {
            "class_id": [0, 0, 1, 3],
            "class_name": ["a", "a", "b", "d"],
            "prompt": ["x", "y", "z", "w"],
        }
    )
    means = angles(0, 90, 20)
    centres, labels = cluster_centres(means, 2, 10, 0)
    table = cluster_table("difference", prompts, np.array([0, 1, 3]), means, centres, labels)
    assert table.drop("cosine").rows() == [
        ("difference", 0, 0, "a", ["x", "y"]),
        ("difference", 0, 3, "d", ["w"]),
        ("difference", 1, 1, "b", ["z"]),
    ]
    cosine = float(np.cos(np.deg2rad(10)))
    assert table["cosine"].to_list() == pytest.approx([cosine, cosine, 1.0], abs=1e-5)
    assert schema_problem(PROMPT_CLUSTERS, table) is None
