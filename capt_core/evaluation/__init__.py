"""Scores of a trained method."""
