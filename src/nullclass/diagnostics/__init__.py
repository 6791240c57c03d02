"""Reasons not to believe an evaluation."""
