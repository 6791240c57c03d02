"""A model and an attack -> one row per image."""
