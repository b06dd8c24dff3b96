"""Stage report."""

from stages import options


def main(dataset: options.Dataset = "proctex") -> None:
    """Write results tables, figures and an HTML page."""
