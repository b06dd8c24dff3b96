"""Data sets: registry, readers, few-shot sampling, images."""
