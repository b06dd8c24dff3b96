"""Where the weights lie on this machine that artifacts were made with.

A model names its backbone by a digest. Where `train` found these weights stands among the records
of runs, apart from the artifacts, so that commands which use the model find them again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from capt_core.artifacts.files import write_json
from capt_core.backbone.identity import backbone_identity, checkpoint_path
from capt_core.errors import CaptError
from capt_core.params import Backbone
from capt_core.settings_file import validate

_RECORD = Path("runs") / "backbones.json"


def remember(artifacts: Path, settings: Backbone, identity: str) -> None:
    """Note which settings gave a backbone.

    Args:
        artifacts: folder of the artifacts that are made with it.
        settings: of the backbone.
        identity: its name and digest.
    """
    path = checkpoint_path(settings)
    given = settings.model_dump() | {"checkpoint": None if path is None else str(path.absolute())}
    known = dict(_read(artifacts / _RECORD))
    if known.get(identity) != given:
        write_json(artifacts / _RECORD, known | {identity: given})


def remembered(model: Path, identity: str) -> Backbone | None:
    """Settings that give a model's backbone, by the records of the artifacts it lies in.

    None where nothing is known, or the weights are not there any more.
    """
    for folder in model.absolute().parents:
        given = _read(folder / _RECORD).get(identity)
        if given is None:
            continue
        try:
            settings = validate(Backbone, given, str(folder / _RECORD))
            return settings if backbone_identity(settings) == identity else None
        except CaptError:
            return None
    return None


def _read(path: Path) -> Mapping[str, dict[str, object]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    entries = found.items() if isinstance(found, dict) else ()
    return {name: given for name, given in entries if isinstance(given, dict)}
