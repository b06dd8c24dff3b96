"""Fetching benchmarks: downloading, verifying, unpacking and arranging their files."""
