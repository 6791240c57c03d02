"""A sequence of steps: a model and images, perhaps an attack -> one row per image.

``ood`` is an open set of image sources inside it.
"""
