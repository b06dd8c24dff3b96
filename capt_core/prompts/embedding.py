"""Embeddings of prompts: each text is encoded once, and kept for a run with the same texts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from capt_core.artifacts.files import atomic_path
from capt_core.backbone.encoding import encode_texts
from capt_core.backbone.loading import Backbone


def prompt_embeddings(texts: Sequence[str], backbone: Backbone, folder: Path | None) -> np.ndarray:
    """Unit-length embeddings [n, d] in fp32 of the frozen text encoder, without learned context.

    The texts are encoded sorted and without repetition. The result is kept under a digest of all
    that it depends on; only a run with the very same texts takes it, because in other batches the
    last bits of a text's embedding may differ. Without a folder nothing is kept.

    Raises:
        CaptError: a text is longer than the encoder's context, or the folder cannot be written.
    """
    unique = sorted(set(texts))
    facts = (backbone.identity, str(backbone.device), str(backbone.autocast), torch.__version__)
    digest = hashlib.sha256("\0".join((*facts, *unique)).encode()).hexdigest()[:32]
    path = None if folder is None else folder / f"{digest}.safetensors"
    matrix = None if path is None else _read(path, len(unique))
    if matrix is None:
        matrix = encode_texts(unique, backbone)
        if path is not None:
            with atomic_path(path) as temporary:
                save_file({"embeddings": matrix}, temporary)
    row = {text: index for index, text in enumerate(unique)}
    embeddings: np.ndarray = matrix.numpy()[[row[text] for text in texts]]
    return embeddings


def _read(path: Path, rows: int) -> torch.Tensor | None:
    """A kept matrix; None if there is none, or none that can be read, which is then made anew."""
    try:
        matrix = load_file(path).get("embeddings")
    except (OSError, SafetensorError):
        return None
    return matrix if matrix is not None and len(matrix) == rows else None
