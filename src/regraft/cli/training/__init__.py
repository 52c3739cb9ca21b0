"""Commands that train: `demo`, `train`, `classes`, `tune`, `crossval`, `compare` and `learning-curve`."""
