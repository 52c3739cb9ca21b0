"""Faster arithmetic on processors: networks with the same outputs and gradients in fewer operations."""
