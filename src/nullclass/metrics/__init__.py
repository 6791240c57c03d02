"""From rows to numbers: rates with intervals, metrics of the null score, checks of claims.

Imports no torch: reports are drawn from rows alone.
"""
