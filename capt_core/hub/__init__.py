"""Models in the layout of the Hugging Face Hub: written, described, sent and fetched."""
