"""The study detectors."""
