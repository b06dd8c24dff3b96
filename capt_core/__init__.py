"""CAPT: confusion-aware prompt tuning on a frozen CLIP."""

__version__ = "0.1.0"
