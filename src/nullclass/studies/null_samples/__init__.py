"""The study null_samples."""
