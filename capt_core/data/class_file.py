"""The file ``classes.yaml``, which says what classes are called in prompts."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from capt_core.data.registry import check_template
from capt_core.data.splits import SplitData
from capt_core.errors import CaptError, cut, reason, shown
from capt_core.text import clean_name
from capt_core.yaml_file import load_yaml

CLASS_FILE = "classes.yaml"


@dataclass(frozen=True)
class ClassFile:
    """Names used in prompts by label, and a prompt template for all of them (None: as it is)."""

    names: dict[str, str]
    template: str | None = None


def find_class_file(given: str | None, root: Path, own: bool) -> Path | None:
    """The file that the settings name, or ``classes.yaml`` in a folder of the user's own images.

    Raises:
        CaptError: the file named is not there.
    """
    if given is not None:
        for path in (Path(os.path.expanduser(given)), root / given):
            if os.path.isfile(path):
                return path
        name = shown(given)[1:-1]
        raise CaptError(f"data.classes: {name} does not exist, nor does it below {root}")
    usual = root / CLASS_FILE
    return usual if own and usual.is_file() else None


def read_class_file(path: Path) -> ClassFile:
    """Read ``template: a photo of a {}.`` and ``names: {label: name, ...}``; both may be left out.

    Raises:
        CaptError: not such a file; an empty name; a template without its one ``{}``.
    """
    document = load_yaml(path, as_text=True).value
    document = {} if document is None else document
    if not isinstance(document, dict) or not set(document) <= {"names", "template"}:
        raise CaptError(f"{path}: expected the keys names and template, and no others")
    names = document.get("names") or {}
    if not isinstance(names, dict):
        raise CaptError(f"{path}: names: expected lines of the form 'label: name'")
    for label, name in names.items():
        if not isinstance(name, str) or not clean_name(name):
            raise CaptError(f"{path}: names: {cut(label)}: expected a name, found {shown(name)}")
    template = document.get("template") or None
    if template is not None:
        try:
            check_template(str(template))
        except ValueError as error:
            raise CaptError(f"{path}: {reason(error)}") from error
    return ClassFile(
        {clean_name(str(label)): clean_name(name) for label, name in names.items()},
        None if template is None else str(template),
    )


def renamed(data: SplitData, names: ClassFile, path: Path) -> SplitData:
    """Give classes the names of a class file; labels it does not list keep theirs.

    Raises:
        CaptError: the file lists a label that the data set does not have.
    """
    labels = {clean_name(label) for label in data.class_names}
    for label in names.names:
        if label not in labels:
            near = difflib.get_close_matches(label, labels, n=1)
            hint = f"did you mean {shown(near[0])}?" if near else "remove the line"
            raise CaptError(f"{path}: names: no class is labelled {shown(label)}; {hint}")
    called = [names.names.get(label, label) for label in data.class_names]
    return replace(data, class_names=called, template=names.template or data.template)
