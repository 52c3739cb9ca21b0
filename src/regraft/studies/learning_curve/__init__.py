"""Learning curve: accuracy by the number of training images, and its extrapolation."""
