"""Image features in parts: each is kept as soon as it is encoded, by the content of its images.

A row of a part stands for an image as long as the image's file has not been touched since it was
read; after that, for any image of the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from capt_core.artifacts.files import time_in
from capt_core.artifacts.provenance import Provenance
from capt_core.artifacts.schemas import IMAGE_FEATURE_PARTS, IMAGE_FEATURES
from capt_core.artifacts.tables import read_provenance, read_table, write_table
from capt_core.errors import CaptError
from capt_core.reporter import active

Features = np.ndarray[Any, np.dtype[np.float32]]
_INDEX = {
    "path": pl.String(),
    "digest": pl.String(),
    "part": pl.String(),
    "row": pl.UInt32(),
    "read_at": pl.Int64(),
}
_KEPT_PARTS = 4  # in memory, for rows that come from several in turn


@dataclass(frozen=True)
class Encoded:
    """A part that is written: images by their paths, digests of their bytes, and features [n, d].

    Attributes:
        read_at: time in ns before any of the images was read, by the clock of the parts' file
            system.
    """

    paths: Sequence[str]
    digests: Sequence[str]
    features: Features
    read_at: int


class FeatureParts:
    """The parts below a folder.

    What is damaged there is named in a warning and removed.

    Args:
        folder: made if it is not there; processes that run side by side may share it.
        origin: data set, backbone and settings that the features depend on.

    Raises:
        CaptError: the folder cannot be used.
    """

    def __init__(self, folder: Path, origin: Provenance) -> None:
        self.folder, self._origin = folder, origin
        self.index = pl.DataFrame(schema=_INDEX)
        self._seen = set[str]()
        self._features = lru_cache(_KEPT_PARTS)(self._read_features)
        self.now()
        self.refresh()

    def refresh(self) -> None:
        """Take note of parts that have come, from other processes too, since the last time."""
        found = [self.index]
        here = sorted(self.folder.glob("[0-9a-f]*.parquet"))
        for path in (path for path in here if path.name not in self._seen):
            try:
                read_at = path.stat().st_mtime_ns
                part = self._read(path)
            except FileNotFoundError:
                continue
            except CaptError as error:
                active().warn(f"{error}".partition(";")[0] + "; its images are encoded again")
                with contextlib.suppress(OSError):
                    path.unlink()
                continue
            self._seen.add(path.name)
            found.append(
                part.select("path", "digest")
                .with_row_index("row")
                .with_columns(part=pl.lit(path.name), read_at=pl.lit(read_at, pl.Int64))
                .select(list(_INDEX))
            )
        # Of several rows for an image, the one read last; by name where that is equal.
        order = pl.concat(found, rechunk=False).sort("read_at", "part", descending=True)
        self.index = order.unique("path", keep="first", maintain_order=True)
        self._by_digest = order.unique("digest", keep="first", maintain_order=True)

    def known(self, paths: pl.Series, touched: pl.Series) -> pl.Series:
        """Whether there are features of images, by their paths and the times of their files [ns].

        Args:
            paths: of the images.
            touched: when each image's file was last touched.
        """
        return self._rows(paths, touched)["part"].is_not_null()

    def digests(self) -> frozenset[str]:
        """Digests of the images that there are features of."""
        return frozenset(self._by_digest["digest"].to_list())

    def of_digests(self, digests: Sequence[str]) -> Features:
        """Features [n, d] of images by `digests` that are among those there are."""
        wanted = pl.DataFrame({"digest": digests}, schema={"digest": pl.String})
        return self._gathered(wanted.join(self._by_digest, on="digest", maintain_order="left"))

    def write(self, part: Encoded) -> None:
        """Keep a part.

        Raises:
            CaptError: it cannot be written.
        """
        name = hashlib.sha256("\n".join([*part.paths, *part.digests]).encode()).hexdigest()[:16]
        path = self.folder / f"{name}.parquet"
        width = part.features.shape[1]
        frame = pl.DataFrame(
            {
                "path": pl.Series(part.paths, dtype=pl.String),
                "digest": pl.Series(part.digests, dtype=pl.String),
                "feature": pl.Series(part.features, dtype=pl.Array(pl.Float32, width)),
            }
        )
        write_table(
            IMAGE_FEATURE_PARTS, frame.unique("path", maintain_order=True), path, self._origin
        )
        # What is touched from now on is read again, though the part was written later.
        os.utime(path, ns=(part.read_at, part.read_at))

    def now(self) -> int:
        """Time in ns by the clock of the folder's file system."""
        return time_in(self.folder)

    def in_order(self, paths: pl.Series, touched: pl.Series) -> Iterator[tuple[int, Features]]:
        """Features of images, a row group at a time: where it starts, and [n, d].

        Args:
            paths, touched: as in `known`, which holds for all.

        Raises:
            CaptError: a part has been damaged meanwhile.
        """
        rows = self._rows(paths, touched)
        size = IMAGE_FEATURES.group_rows
        for start in range(0, len(rows), size):
            yield start, self._gathered(rows[start : start + size])

    def drop_unused(self, paths: pl.Series, touched: pl.Series) -> None:
        """Remove the parts that hold features of none of these images."""
        used = set(self._rows(paths, touched)["part"].to_list())
        for name in self._seen - used:
            with contextlib.suppress(OSError):
                (self.folder / name).unlink()

    def _rows(self, paths: pl.Series, touched: pl.Series) -> pl.DataFrame:
        """Part and row of images, null where there is none or it is out of date."""
        images = pl.DataFrame({"path": paths, "touched": touched})
        rows = images.join(self.index, on="path", how="left", maintain_order="left")
        current = pl.col("touched") < pl.col("read_at")
        return rows.with_columns(pl.when(current).then(pl.col("part", "row")))

    def _gathered(self, rows: pl.DataFrame) -> Features:
        parts, numbers = rows["part"], rows["row"].to_numpy()
        found: Features | None = None
        for name in parts.unique(maintain_order=True):
            places = (parts == name).arg_true().to_numpy()
            features = self._features(name)
            if found is None:
                found = np.empty((len(rows), features.shape[1]), dtype=np.float32)
            found[places] = features[numbers[places]]
        return np.empty((0, 0), dtype=np.float32) if found is None else found

    def _read(self, path: Path) -> pl.DataFrame:
        frame = read_table(IMAGE_FEATURE_PARTS, path)
        found = read_provenance(path)
        other = found.mismatch(self._origin)
        if other is not None or found.settings != self._origin.settings:
            raise CaptError(f"{path}: made with other settings; remove it")
        return frame

    def _read_features(self, name: str) -> Features:
        try:
            return self._read(self.folder / name)["feature"].to_numpy()
        except CaptError as error:
            cause = str(error).partition(";")[0]
            raise CaptError(f"{cause}; run the same command again") from error
