"""Commands that use a trained model: `evaluate`, `predict`, `explain`, `report` and `summary`."""
