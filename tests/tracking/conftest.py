"""Trackers that stay on this machine and ask nobody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def _offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No network, no login, one database for all tests; W&B's process ends with them."""
    place = tmp_path_factory.mktemp("trackers")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "WANDB_MODE": "offline",
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_CONFIG_DIR": str(place / "wandb-config"),
            "WANDB_CACHE_DIR": str(place / "wandb-cache"),
            "WANDB_DATA_DIR": str(place / "wandb-data"),
            "NETRC": str(place / "netrc"),
            "HOME": str(place),
            "DO_NOT_TRACK": "true",
            "MLFLOW_TRACKING_URI": f"sqlite:///{place / 'mlflow.db'}",
        }.items():
            patch.setenv(name, value)
        for name in ("WANDB_API_KEY", "WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
            patch.delenv(name, raising=False)
        patch.chdir(place)  # MLflow puts artifacts into the working directory
        yield
        import wandb

        wandb.teardown()
