"""The study fgsm_null."""
