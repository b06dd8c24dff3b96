"""Embeddings of prompts: each text is encoded once, and kept for a run with the same texts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from capt_core.artifacts.tensors import SavedTensors
from capt_core.artifacts.work_files import Warn, read_work_file, shapes_problem, write_work_file
from capt_core.backbone.encoding import encode_texts
from capt_core.backbone.loading import Backbone


def prompt_embeddings(
    texts: Sequence[str],
    backbone: Backbone,
    folder: Path | None,
    warn: Warn = lambda _: None,
) -> np.ndarray:
    """Unit-length embeddings [n, d] in fp32 of the frozen text encoder, without learned context.

    The texts are encoded sorted and without repetition. The result is kept under a digest of all
    that it depends on; only a run with the very same texts takes it, because in other batches the
    last bits of a text's embedding may differ. Without a folder nothing is kept. A kept file that
    is damaged is named to `warn` and made anew.

    Raises:
        CaptError: a text is longer than the encoder's context, or the folder cannot be written.
    """
    unique = sorted(set(texts))
    facts = (backbone.identity, str(backbone.device), str(backbone.autocast), torch.__version__)
    digest = hashlib.sha256("\0".join((*facts, *unique)).encode()).hexdigest()[:32]
    path = None if folder is None else folder / f"{digest}.safetensors"
    matrix = None if path is None else _read(path, len(unique), warn)
    if matrix is None:
        matrix = encode_texts(unique, backbone)
        if path is not None:
            write_work_file(path, {_NAME: matrix})
    row = {text: index for index, text in enumerate(unique)}
    embeddings: np.ndarray = matrix.numpy()[[row[text] for text in texts]]
    return embeddings


_NAME = "embeddings"


def _read(path: Path, rows: int, warn: Warn) -> torch.Tensor | None:
    def problem(found: SavedTensors) -> str | None:
        return shapes_problem(found, {_NAME: ((rows, None), torch.float32)})

    found = read_work_file(path, problem, warn)
    return None if found is None else found.tensors[_NAME]
