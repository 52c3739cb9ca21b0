"""Commands that train: `demo`, `train`, `tune`, `crossval`, `compare` and `learning-curve`."""
