"""Experiment tracking with TensorBoard, Weights & Biases or MLflow; a failing tracker never stops a training."""
