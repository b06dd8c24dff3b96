"""One folder of weights, inputs and what a reference computed from them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from capt_core.backbone.loading import Backbone
from capt_core.data.images import Preprocess
from capt_core.errors import CaptError, cut, reason

Tensors = dict[str, torch.Tensor]

_CONFIG = "config.json"
_LIST = "tensors.txt"
_TENSORS = ("weights.safetensors", "inputs.safetensors", "expected.safetensors")


@dataclass(frozen=True)
class Fixture:
    """A folder's content; numbers are fp64, whole numbers int64.

    Two layouts are read. In one, the tensors of each CLIP stand below a prefix and `open_clip...`
    in the configuration holds what open_clip's CLIP takes; in the other, those of the only CLIP
    stand without a prefix, its sizes in `clip`, and the method's below ``trainable/``.

    Attributes:
        name: path of the folder below the one that was asked for.
        config: sizes and settings.
        weights: of CLIPs and of the method at its start.
        inputs: images, token ids, labels, recorded draws.
        expected: what must come out.
        rounded: names of what is expected but was stored in fp32.
    """

    name: str
    config: dict[str, Any]
    weights: Tensors
    inputs: Tensors
    expected: Tensors
    rounded: frozenset[str] = frozenset()

    def below(self, prefix: str) -> Tensors:
        """Weights whose names begin with a prefix, without it."""
        return below(prefix, self.weights)

    def given(self, prefix: str) -> Tensors:
        """Inputs whose names begin with a prefix, without it."""
        return below(prefix, self.inputs)

    def prompts(self, prefix: str, depth: str, count: str) -> torch.Tensor:
        """Prompts of every depth from 0, [J, n, W]; there are as many as the configuration says.

        Args:
            prefix: of their names, which end with the depth.
            depth: key of J.
            count: key of n.

        Raises:
            CaptError: there are others.
        """
        found, depths, number = self.below(prefix), self.config[depth], self.config[count]
        wanted = {str(index) for index in range(depths)}
        if found.keys() != wanted or any(len(each) != number for each in found.values()):
            raise CaptError(
                f"{self.name}: {prefix}* are not the {depths} tensors of {number} prompts that "
                f"{depth} and {count} name"
            )
        return torch.stack([found[str(index)] for index in range(depths)])

    def check_names(self, names: str, tokens: torch.Tensor) -> None:
        """Refuse class names that are not as many as their texts, [C, L].

        Args:
            names: key of the configuration.
            tokens: ids of the texts.

        Raises:
            CaptError: there are more or fewer.
        """
        if len(self.config[names]) != len(tokens):
            raise CaptError(
                f"{self.name}: {names} are {len(self.config[names])}, and there are "
                f"{len(tokens)} texts of them"
            )

    def check(self, **held: Any) -> None:
        """Compare what a configuration says of the tensors with them; it need not say it.

        Args:
            **held: by key of the configuration; lists are compared without their order.

        Raises:
            CaptError: it says otherwise.
        """
        for key, value in held.items():
            said = self.config.get(key, value)
            same = sorted(said) == sorted(value) if isinstance(value, list) else said == value
            if not same:
                shown = "other names" if isinstance(value, list) else f"{value}, not {said}"
                raise CaptError(f"{self.name}: its tensors hold {shown} for {key} of {_CONFIG}")

    def backbone(self, sizes: str = "open_clip", prefix: str = "clip.") -> Backbone:
        """A CLIP as methods take it: frozen, in fp64, without a tokenizer.

        Args:
            sizes: key of the configuration; `clip` where the CLIP's tensors have no prefix.
            prefix: of its tensors.
        """
        from open_clip.model import CLIP

        arguments = self.config[sizes]
        try:
            clip = CLIP(**arguments).double()
            own = clip.state_dict().keys()
            plain = {name: value for name, value in self.weights.items() if name in own}
            clip.load_state_dict(plain if sizes == "clip" else self.below(prefix), strict=True)
        except (RuntimeError, TypeError, AssertionError, ArithmeticError) as error:
            raise CaptError(
                f"{self.name}: its base model does not fit ({reason(error)})"
            ) from error
        clip.eval().requires_grad_(False)
        sides = tuple(clip.visual.image_size)
        if any(value.shape[2:] != sides for value in self.inputs.values() if _is_pixels(value)):
            raise CaptError(
                f"{self.name}: has images of other sizes than its base model's, {sides}"
            )
        style = Preprocess(sides[0], (0,) * 3, (1,) * 3)
        return Backbone(
            self.name, clip, _NoTokenizer(), style, torch.device("cpu"), None, untrained=True
        )


def _is_pixels(value: torch.Tensor) -> bool:
    return value.ndim == 4 and value.shape[1] == 3


def below(prefix: str, tensors: Tensors) -> Tensors:
    """Tensors whose names begin with a prefix, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


class _NoTokenizer:
    """Stands where texts are given as token ids."""

    context_length = 0

    def __call__(self, texts: list[str]) -> torch.Tensor:
        raise AssertionError("texts are given as token ids")

    def token_count(self, text: str) -> int:
        raise AssertionError("texts are given as token ids")

    def decode(self, ids: Sequence[int]) -> str:
        raise AssertionError("texts are given as token ids")


def fixture_folders(root: Path) -> Iterator[Path]:
    """The folders at or below a path that hold a fixture or a part of one, in order."""
    files = [file for name in (_CONFIG, *_TENSORS) for file in root.rglob(name)]
    yield from sorted({file.parent for file in files})


def read_fixture(folder: Path, root: Path) -> Fixture:
    """The content of a folder.

    Raises:
        CaptError: a file is missing or damaged.
    """
    name = folder.relative_to(root).as_posix() if folder != root else folder.resolve().name
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        weights, inputs, expected = (load_file(folder / file) for file in _TENSORS)
        listed = list(_listed(folder))
    except (OSError, ValueError, SafetensorError) as error:
        raise CaptError(f"{name}: cannot be read ({reason(error)})") from error
    if not isinstance(config, dict) or not expected:
        raise CaptError(f"{name}: holds no settings, or nothing that is expected")
    held = dict(zip(_TENSORS, (weights, inputs, expected), strict=True))
    missing = [f"{each} of {file}" for file, each in listed if each not in held.get(file, {})]
    if missing:
        raise CaptError(f"{name}: lacks what its {_LIST} names ({cut(', '.join(missing), 160)})")
    rounded = frozenset(key for key, value in expected.items() if value.dtype == torch.float32)
    return Fixture(name, config, _exact(weights), _exact(inputs), _exact(expected), rounded)


def _listed(folder: Path) -> Iterator[tuple[str, str]]:
    """File and name of every tensor that a folder's list names, if it has one."""
    path = folder / _LIST
    file = ""
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        if line.startswith("["):
            file = line.strip("[] ")
        elif line.strip():
            yield file, line.split()[0]


def _exact(tensors: Tensors) -> Tensors:
    return {
        name: value.double() if value.is_floating_point() else value.long()
        for name, value in tensors.items()
    }
