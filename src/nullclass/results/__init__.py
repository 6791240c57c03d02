"""Rows on disk: their schema and the only reader and writer."""
