"""Commonality and difference prompts: stores, templates, clustering."""
