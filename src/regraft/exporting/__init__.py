"""A trained model as files that other runtimes read, each of which has proved that it answers as the model does."""
