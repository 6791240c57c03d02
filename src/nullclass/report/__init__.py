"""Report of a run: rows in, one HTML page with its figures out. Loads no model.

A sequence of steps: :mod:`~nullclass.report.measures` groups the summary over seeds,
:func:`~nullclass.report.tables.make_table` and :func:`~nullclass.report.style.panel` turn measures
and rows into :mod:`~nullclass.report.blocks`, :func:`~nullclass.report.sections.study_page` puts
blocks in sections, and :mod:`~nullclass.report.render` writes the page. ``figures`` is an open set.
A study's own page, tables and figures are in the study's folder.
"""
