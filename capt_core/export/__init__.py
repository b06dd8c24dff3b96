"""Trained models for others: one file that another runtime, or another machine, takes."""
