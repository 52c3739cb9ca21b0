"""Comparison of models on the same test images: the trainings, the conclusions, the table and the plot."""
