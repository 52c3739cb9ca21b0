"""Export of a trained model to other runtimes, and the checks that an export predicts as its model does."""
