"""Hyperparameter search: short trials, full trainings of the best, and the winner as a run."""
