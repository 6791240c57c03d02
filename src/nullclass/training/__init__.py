"""Data, null images and a model -> a trained model."""
