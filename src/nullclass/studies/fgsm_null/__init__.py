"""The notebook's study: a null class learned from FGSM images."""
