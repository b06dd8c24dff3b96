"""CAPT: Diff-Manner Adapter and Multi-Granularity Discrepancy Expert on a frozen CLIP."""
