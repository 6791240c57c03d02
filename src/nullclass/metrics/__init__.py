"""Rows -> rates, intervals, score metrics, checked claims. Imports no torch."""
