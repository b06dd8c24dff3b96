"""The training loop that every method shares; it knows no method."""
