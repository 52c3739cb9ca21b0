"""Detect out-of-distribution images by their Mahalanobis distance to the nearest class."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

#: Largest number of principal components with a variance of their own.
_MAX_COMPONENTS = 128
#: Largest numbers of images for the fit, and of distances that are kept for p-values.
MAX_FIT_IMAGES, _MAX_CALIBRATION_IMAGES = 10_000, 10_000


class MahalanobisOod(nn.Module):
    """Distance to the nearest of C class means, and the distances of R in-distribution images (0 before `calibrate`).

    All classes share one covariance (Lee et al. 2018, arXiv 1807.03888). There are often more features than images, so
    the covariance is that of probabilistic PCA: `components` directions have a variance of their own, all others have
    the same noise variance (Tipping and Bishop 1999, JRSS B 61, 611-622).
    """

    means: torch.Tensor
    components: torch.Tensor
    variances: torch.Tensor
    noise_variance: torch.Tensor
    calibration_distances: torch.Tensor

    def __init__(self, classes: int, features: int, components: int, calibration_images: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(classes, features))
        self.register_buffer("components", torch.zeros(features, components))
        self.register_buffer("variances", torch.ones(components))
        self.register_buffer("noise_variance", torch.ones(()))
        self.register_buffer("calibration_distances", torch.zeros(calibration_images, dtype=torch.float64))

    def get_config(self) -> dict[str, int]:
        """The constructor's arguments."""
        classes, features = self.means.shape
        return {
            "classes": classes,
            "features": features,
            "components": self.components.shape[1],
            "calibration_images": len(self.calibration_distances),
        }

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (N, F) to squared distances from the nearest class mean, float64 (N,)."""
        # float64, because differences of large products remain; Apple's GPUs do not support it.
        device = torch.device("cpu") if features.device.type == "mps" else features.device
        features, means, components, variances, noise = (
            values.to(device, torch.float64)
            for values in (features, self.means, self.components, self.variances, self.noise_variance)
        )
        center = means.mean(dim=0)
        features, means = features - center, means - center
        weights = 1 / variances - 1 / noise  # the precision of a component beyond that of the noise

        projected_means = means @ components
        mean_norms = (means**2).sum(dim=1) / noise + (projected_means**2 * weights).sum(dim=1)

        def distance(rows: torch.Tensor) -> torch.Tensor:
            projected = rows @ components
            norms = (rows**2).sum(dim=1) / noise + (projected**2 * weights).sum(dim=1)
            products = rows @ means.T / noise + (projected * weights) @ projected_means.T
            return (norms[:, None] - 2 * products + mean_norms).clamp_min(0).amin(dim=1)

        return rowwise(distance, features)

    def calibrate(self, distances: torch.Tensor) -> None:
        """Keep the distances of in-distribution images outside the training set, float64 (R,), R at least 1."""
        ordered = distances.double().cpu().sort().values
        rows = torch.linspace(0, len(ordered) - 1, min(len(ordered), _MAX_CALIBRATION_IMAGES)).round().long()
        self.calibration_distances = ordered[rows]

    def p_value(self, distances: torch.Tensor) -> torch.Tensor | None:
        """Share of in-distribution images at least as far away as each distance (N,), the image itself included.

        float64 (N,), 1 / (R + 1) to 1; None before `calibrate`. For an in-distribution image, the probability of a
        p-value at or below any level is at most that level (a conformal p-value: Vovk, Gammerman and Shafer 2005,
        "Algorithmic Learning in a Random World").
        """
        count = len(self.calibration_distances)
        if not count:
            return None
        closer = torch.searchsorted(self.calibration_distances.to(distances.device), distances)
        return (count - closer + 1).double() / (count + 1)


def rowwise(function: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    """Apply a function to N rows one by one on a CPU, so that a row's result does not depend on the other rows.

    The order of additions in a matrix product depends on the number of rows, so an image's prediction would differ in
    its last bits with its batch. On a GPU one row takes as long as all, and the function gets all rows at once.
    """
    if rows.device.type != "cpu" or len(rows) < 2:
        return function(rows)
    return torch.cat([function(row) for row in torch.split(rows, 1)])


@torch.no_grad()
def fit_ood(features: torch.Tensor, labels: torch.Tensor) -> MahalanobisOod | None:
    """Fit means and covariance to float32 features (N, F); then `calibrate`. None if no class has two unlike images."""
    present, index = torch.unique(labels, return_inverse=True)
    means = torch.zeros(len(present), features.shape[1]).index_add_(0, index, features)
    means /= index.bincount()[:, None]
    residuals = features - means[index]
    degrees_of_freedom, width = len(features) - len(present), features.shape[1]
    total = float(residuals.square().sum())
    if degrees_of_freedom < 1 or total == 0:
        return None
    count = max(1, min(_MAX_COMPONENTS, degrees_of_freedom // 4, width - 1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, singular_values, components = torch.svd_lowrank(residuals, q=min(count + 8, *residuals.shape), niter=3)
    variances, components = singular_values[:count].square() / degrees_of_freedom, components[:, :count]
    unexplained = max(total / degrees_of_freedom - float(variances.sum()), 0.0)
    noise = max(unexplained / (width - len(variances)), 1e-6 * total / degrees_of_freedom / width)
    ood = MahalanobisOod(len(present), width, len(variances), 0)
    ood.means.copy_(means)
    ood.components.copy_(components)
    ood.variances.copy_(variances.clamp_min(noise))
    ood.noise_variance.fill_(noise)
    return ood
