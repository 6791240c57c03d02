"""The study null_probabilities."""
