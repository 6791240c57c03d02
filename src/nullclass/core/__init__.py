"""Vocabulary, errors and small shared tools. Import its modules one by one."""
