"""A sequence of steps: trials become jobs, a runner gives the jobs to an engine.

``config`` describes (no torch), ``jobs`` orders and names folders (no torch), ``runner`` assigns
and retries, ``engines`` execute; ``tasks``, ``trainings`` and ``trials`` do one job.
"""
