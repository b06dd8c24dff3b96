"""Artifacts: where they lie, what their tables hold, and how they are written and read."""
