"""Methods against numbers that their reference code gave: ``python -m benchmarks.parity DIR``."""
