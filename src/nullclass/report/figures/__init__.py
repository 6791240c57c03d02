"""Figures of one evaluated model: an open set.

A new one is a file here and a line in :mod:`nullclass.report.evaluation_page`. Figures read rows,
never a model. ``outcomes``, ``gallery`` and ``training`` also draw studies.
"""
