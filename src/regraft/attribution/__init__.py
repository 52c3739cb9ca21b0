"""Why the model says what it says: where in an image the evidence lies, and whether that is to be believed."""
