"""Quality checks of a data set: duplicates, shortcuts, classes and damaged files."""
