"""Commands about this installation: `backbones`, `config` and `cache`."""
