"""The study figures."""
