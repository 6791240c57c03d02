"""The study ramps."""
