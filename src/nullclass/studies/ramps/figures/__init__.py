"""Figures of the study ``ramps``."""
