"""Whether what a model sees and says has changed: tests and intervals of numbers of pictures, without these."""
