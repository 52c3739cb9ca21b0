"""Evaluation of class probabilities on labeled images; it needs numpy but no model."""
