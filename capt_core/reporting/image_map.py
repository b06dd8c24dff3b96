"""The map: a two-dimensional projection of frozen image features."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from capt_core.artifacts.report_tables import IMAGE_MAP
from capt_core.errors import CaptError

Projection = Literal["pca", "umap"]

_DIGITS = 4  # a ten-thousandth of the map's side: nobody sees more, and the table stays small
_LEAST_FOR_UMAP = 16  # images; with fewer than its neighbours there is no neighbourhood graph


def image_map(
    images: pl.DataFrame, features: npt.NDArray[np.float32], projection: Projection = "pca"
) -> pl.DataFrame:
    """Places of images on the map.

    Args:
        images: `sample_id`, `path`, `class_id`, `class_name`.
        features: of all images of the data set, [N, d], row i of sample i.
        projection: `pca`, or `umap` (McInnes, Healy and Melville, 2018), which shows clusters
            better and needs the extra ``[map]``.

    Returns:
        Rows as in the table `image_map`.

    Raises:
        CaptError: the extra is not installed.
    """
    if images.is_empty():
        return IMAGE_MAP.frame()
    chosen = features[images["sample_id"].to_numpy()]
    places = (umap_plane if projection == "umap" else pca_plane)(chosen)
    x, y = _unit_square(places).T
    return IMAGE_MAP.select(images.with_columns(pl.Series("x", x), pl.Series("y", y)))


def pca_plane(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The first two principal components, [N, 2]; zeros where there are fewer.

    The largest weight of a component is positive, so that the map is never mirrored.
    """
    from sklearn.decomposition import PCA

    places = np.zeros((len(features), 2))
    components = min(2, *features.shape)
    if len(features) < 2 or not components:
        return places
    model = PCA(n_components=components, svd_solver="full").fit(features.astype(np.float64))
    largest = np.abs(model.components_).argmax(axis=1)
    signs = np.sign(model.components_[np.arange(components), largest])
    places[:, :components] = model.transform(features.astype(np.float64)) * signs
    return places


def umap_plane(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """UMAP of the features by their cosines, with a fixed seed, [N, 2].

    Raises:
        CaptError: umap-learn is not installed.
    """
    if find_spec("umap") is None:
        raise CaptError(
            "report.projection=umap needs the extra [map]; run: pip install 'capt-stage[map]', "
            "or take report.projection=pca"
        )
    if len(features) < _LEAST_FOR_UMAP:
        return pca_plane(features)
    import umap

    model = umap.UMAP(n_components=2, metric="cosine", random_state=0, n_jobs=1)
    return np.asarray(model.fit_transform(features), dtype=np.float64)


def _unit_square(places: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Coordinates from 0 to 1 along each axis; 0.5 where all are the same."""
    low, high = places.min(axis=0), places.max(axis=0)
    width = high - low
    scaled = np.where(width > 0, (places - low) / np.where(width > 0, width, 1), 0.5)
    return np.asarray(np.round(scaled, _DIGITS), dtype=np.float64)
