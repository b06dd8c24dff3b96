"""Artifacts: where they are, what their tables hold, and how they are written and read."""
