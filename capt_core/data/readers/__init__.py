"""One reader per layout: from files on disk to a list of samples and classes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from capt_core.data.class_file import CLASS_FILE, find_class_file, read_class_file, renamed
from capt_core.data.readers.aircraft import read_aircraft
from capt_core.data.readers.class_folders import read_class_folders
from capt_core.data.readers.names import numbers_note, untested_note, with_paths_on_disk
from capt_core.data.readers.own import read_own
from capt_core.data.readers.split_json import read_split_json
from capt_core.data.registry import DatasetSpec
from capt_core.data.splits import Rejects, SplitData, check_classes, checked_root
from capt_core.params import Data
from capt_core.text import clean_name
from capt_core.user_paths import naming_files


@naming_files("data.root")
def read_split(spec: DatasetSpec, data: Data) -> tuple[SplitData, Path]:
    """List a data set on disk; returns it with the folder that its paths are relative to.

    Raises:
        CaptError: missing root, wrong layout or damaged lists; the message names what was expected
            and where.
    """
    root = checked_root(spec, data.root)
    images = root / spec.images
    rejects = Rejects(data.on_bad_image == "quarantine")
    if spec.reader == "own":
        listed, where = read_own(Path(os.path.expanduser(str(data.root))), data, rejects)
    elif spec.reader == "class_folders":
        listed, where = read_class_folders(spec, root, rejects), str(images)
    elif spec.reader == "aircraft":
        listed, where = read_aircraft(root), str(root / str(spec.split))
    else:
        path = root / str(spec.split)
        listed, where = read_split_json(path, rejects), str(path)
    listed = with_paths_on_disk(listed, images, where, rejects)
    own = spec.reader == "own"
    names = find_class_file(data.classes, root, own=own)
    if names is not None:
        listed = renamed(listed, read_class_file(names), names)
    called = [clean_name(name) for name in listed.class_names]
    listed = replace(listed, class_names=called, rejected=rejects.frame())
    check_classes(listed, where, trained=spec.has_training)
    if spec.classes and len(listed.class_names) != spec.classes:
        line = f"{len(listed.class_names)} classes; the full data set has {spec.classes}"
        listed = replace(listed, notes=(*listed.notes, line))
    if own:
        lines = (numbers_note(called, names or root / CLASS_FILE), untested_note(listed))
        listed = replace(listed, notes=(*listed.notes, *filter(None, lines)))
    return listed, images
