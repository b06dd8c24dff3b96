"""``python -m capt_core.data.as_table FOLDER`` lists another tool's annotations in a table."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from capt_core.artifacts.files import write_text
from capt_core.data.readers.annotations import find_annotations
from capt_core.errors import CaptError
from capt_core.user_paths import naming_files, user_path


@naming_files("FOLDER")
def write_labels(root: Path) -> Path:
    """Write ``labels.csv`` with the columns path, label and, where it is known, split.

    Raises:
        CaptError: no annotations that are known, none that give an image one class, a file of that
            name is there, something cannot be read, or the table cannot be written.
    """
    target = root / "labels.csv"
    if not root.is_dir():
        raise CaptError(f"{root}: not a folder; give the one that holds the annotations")
    if target.exists():
        raise CaptError(f"{target}: is there already; move it away, or use it as it is")
    found = find_annotations(root)
    rows = list(found.rows()) if found else []
    if found is None:
        raise CaptError(f"{root}: no annotations of COCO, YOLO, Pascal VOC or FiftyOne were found")
    if not rows:
        raise CaptError(f"{root}: {found.what}: none gives an image exactly one class")
    width = 3 if all(split for _, _, split in rows) else 2
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("path", "label", "split")[:width])
    writer.writerows(row[:width] for row in rows)
    try:
        write_text(target, stream.getvalue())
    except UnicodeEncodeError as error:
        raise CaptError(f"{root}: a file name that is not valid UTF-8; rename it") from error
    return target


def main(arguments: Sequence[str]) -> int:
    """Write the table of the one folder named; returns the exit code."""
    if len(arguments) != 1:
        print("usage: python -m capt_core.data.as_table FOLDER", file=sys.stderr)
        return 2
    try:
        target = write_labels(user_path(arguments[0], "FOLDER"))
    except CaptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written: {target}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
