"""Prompts written by a language model: asked for in three steps, kept, checked."""
