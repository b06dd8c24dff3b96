"""One command per stage of the pipeline."""
