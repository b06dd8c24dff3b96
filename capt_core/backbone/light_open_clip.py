"""open_clip, imported without what most models do not use; real models of these work as ever.

Most of the time of its import goes into transformers, for text towers of Hugging Face, into timm,
for image towers of its own, and into torch's compiler, which torchvision asks about one operator.
"""

from __future__ import annotations

from typing import Any

from capt_core.lazy_import import import_without

open_clip: Any = import_without("open_clip", ("transformers", "timm", "ftfy", "torch._dynamo"))
