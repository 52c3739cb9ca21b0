"""Tracking: what a training tells enters; scalars and pictures in TensorBoard, Weights & Biases or MLflow leave.

`tracker` says what a tracker is, `listener` runs them beside a training, and each of the other modules is one of them.
They import their package when they are used and no sooner. The training neither waits for a tracker nor fails with it.
"""
