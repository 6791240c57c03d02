"""A sequence of steps: the rows of an evaluation and a few probes of the model -> red flags.

:data:`nullclass.diagnostics.red_flags.CHECKS` is an open set inside it: a new check is one function
and one paragraph in docs/red-flags.md.
"""
