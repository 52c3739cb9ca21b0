"""Evaluation of models that give an image a number."""
