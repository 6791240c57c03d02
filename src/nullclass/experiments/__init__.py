"""Configs -> jobs -> results: studies run here."""
