"""CLIP's weights by the names of Hugging Face's transformers, told by open_clip's names."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from capt_core.backbone.archive import StoredTensor
from capt_core.backbone.named import Named

_TOWER = re.compile(r"((?:.*\.)?)(text|vision)_model\.(.+)")
_PROJECTION = re.compile(r"((?:.*\.)?)(text|visual)_projection\.weight")
_QUERY = re.compile(r"(.*\.)q_proj\.(weight|bias)")

_PLACES = {"text": "", "vision": "visual."}
_WHOLE = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
}
_PARTS = (
    ("encoder.layers.", "transformer.resblocks."),
    (".layer_norm1.", ".ln_1."),
    (".layer_norm2.", ".ln_2."),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
    (".self_attn.", ".attn."),
    ("pre_layrnorm.", "ln_pre."),
    ("post_layernorm.", "ln_post."),
    ("final_layer_norm.", "ln_final."),
)


def open_clip_name(name: str) -> str:
    """The name in open_clip of a tensor of transformers' ``CLIPModel``, other names as they are.

    Queries, keys and values keep their last part, ``q_proj.weight`` and so on.
    """
    tower, projection = _TOWER.fullmatch(name), _PROJECTION.fullmatch(name)
    if projection:
        return projection[1] + ("text_projection" if projection[2] == "text" else "visual.proj")
    if not tower:
        return name
    rest = _WHOLE.get(tower[3])
    if rest is None:
        rest = tower[3]
        for theirs, ours in _PARTS:
            rest = rest.replace(theirs, ours)
    return f"{tower[1]}{_PLACES[tower[2]]}{rest}"


def from_hugging_face(tensors: Sequence[Named]) -> Sequence[Named]:
    """Tensors under open_clip's names, queries, keys and values joined, projections transposed.

    Returns the very sequence where no name is one of transformers' CLIP.
    """
    if not any(_TOWER.fullmatch(each.path) for each in tensors):
        return tensors
    renamed = {(each.group, open_clip_name(each.path)): each for each in tensors}
    converted: list[Named] = []
    joined: set[tuple[str, str]] = set()
    for (group, name), each in renamed.items():
        tensor = each.tensor
        if _PROJECTION.fullmatch(each.path) and len(tensor.shape) == 2:
            tensor = _transposed(tensor)
        query = _QUERY.fullmatch(name)
        if query:
            keys = [(group, f"{query[1]}{part}_proj.{query[2]}") for part in "qkv"]
            parts = [renamed[key].tensor for key in keys if key in renamed]
            if len(parts) == 3 and len({part.shape for part in parts}) == 1 and parts[0].shape:
                name, tensor = f"{query[1]}in_proj_{query[2]}", _stacked(parts)
                joined.update(keys)
        converted.append(Named(name, group, tensor))
    return [each for each in converted if (each.group, each.path) not in joined]


def _transposed(tensor: StoredTensor) -> StoredTensor:
    return StoredTensor(tensor.shape[::-1], tensor.dtype, lambda: tensor.load().T)


def _stacked(parts: Sequence[StoredTensor]) -> StoredTensor:
    rows, *rest = parts[0].shape
    shape = (len(parts) * rows, *rest)
    return StoredTensor(shape, parts[0].dtype, lambda: torch.cat([part.load() for part in parts]))
