"""What is reported about a run whose model gives an image a number."""
