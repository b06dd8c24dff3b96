"""open_clip's tokenizers, as far as they are CLIP's."""

from __future__ import annotations

import pytest

from capt_core.backbone.loading import OpenClipTokenizer
from capt_core.errors import CaptError
from capt_core.torchvision_ops import ensure_torchvision


def test_a_tokenizer_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_torchvision()
    import open_clip

    # open_clip gives models with a Hugging Face tokenizer an object without this encoder.
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: object())
    with pytest.raises(CaptError, match="not CLIP's own"):
        OpenClipTokenizer("ViT-B-16-SigLIP")
