"""Spotlighter (Gao et al., EMNLP 2025): attended tokens and a memory beside learned prompts."""
