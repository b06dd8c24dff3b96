"""One reader per layout: from files on disk to a list of samples and classes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from capt_core.data.class_file import CLASS_FILE, find_class_file, read_class_file, renamed
from capt_core.data.column_files import TABLE_ENDINGS
from capt_core.data.readers.aircraft import read_aircraft
from capt_core.data.readers.class_folders import read_class_folders
from capt_core.data.readers.names import numbers_note, untested_note, with_paths_on_disk
from capt_core.data.readers.own import read_own
from capt_core.data.readers.split_json import read_split_json
from capt_core.data.registry import DatasetSpec
from capt_core.data.remote.signatures import signatures_below
from capt_core.data.remote.tree import addressed, is_remote_root, original, remote_tree
from capt_core.data.splits import Rejects, SplitData, check_classes, checked_root
from capt_core.errors import CaptError
from capt_core.params import Data
from capt_core.text import clean_name
from capt_core.user_paths import naming_files


@naming_files("data.root")
def read_split(spec: DatasetSpec, data: Data) -> tuple[SplitData, Path]:
    """List a data set; returns it with the folder that its paths are relative to.

    That of a remote one stands for its address, see `capt_core.addresses`.

    Raises:
        CaptError: missing root, wrong layout or damaged lists; the message names what was expected
            and where.
    """
    signatures_below(data.root)
    if data.root is not None and is_remote_root(data.root):
        folder = f"{spec.images}/" if spec.images else None
        needed = tuple(filter(None, (spec.split, spec.class_names, folder)))
        with remote_tree(data.root, spec.folder, needed) as source:
            here = data.model_copy(update={"root": str(source)})
            listed, images = _read_local(spec, here)
            _refuse_tables_of_images(listed, data.root)
            notes = [addressed(line) for line in listed.notes]
            return replace(listed, notes=notes), original(images)
    return _read_local(spec, data)


def _refuse_tables_of_images(listed: SplitData, root: str) -> None:
    """Refuse images in the rows of a remote table, whose groups of rows are read from disks."""
    parents = listed.samples["path"].str.extract(r"^(.*)/[0-9]+$").drop_nulls().unique()
    held = [name for name in parents.to_list() if Path(name).suffix.lower() in TABLE_ENDINGS]
    if held:
        raise CaptError(
            f"{root}: {held[0]} holds the images themselves, which is read from local disks only; "
            "copy it"
        )


def _read_local(spec: DatasetSpec, data: Data) -> tuple[SplitData, Path]:
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
