"""Spotlighter: attended tokens and a memory beside learned prompts (Gao et al.)."""
