"""Prompt learning on open_clip's towers: learned tokens before text and image blocks."""
