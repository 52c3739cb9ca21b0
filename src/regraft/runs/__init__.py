"""Runs: train a model into a run's folder, and use it from there."""
