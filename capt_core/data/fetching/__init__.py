"""Getting benchmarks: downloading, verifying, unpacking and arranging their files."""
