"""Commands that bring a model into production: `export`, `verify` and `serve`."""
