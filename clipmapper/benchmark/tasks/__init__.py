"""The tasks that are benchmarked, a file each."""
