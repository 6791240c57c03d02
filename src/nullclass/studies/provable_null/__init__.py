"""The study provable_null."""
