"""How familiar an image is: whether it shows anything like what the classifier was trained on.

Enters: features of training images, and of others by which distances are judged. Leaves: a `Familiarity`, which says
of any features how many familiar images are as strange.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

#: Directions in which the features of a class are allowed to vary by a measured amount of their own.
_DIRECTIONS = 128
#: Images from which they are estimated, and familiar images that are remembered, at most.
MOST_IMAGES, _MOST_DISTANCES = 10_000, 10_000


class Familiarity(nn.Module):
    """Distance to the nearest class, and the distances of images known to be familiar.

    The distance is Mahalanobis' with one covariance for all classes (Lee et al. 2018, arXiv 1807.03888). Features are
    more than images, so the covariance is that of probabilistic principal components: measured in `k` directions, the
    same in all others (Tipping and Bishop 1999, JRSS B 61, 611-622).

    Args:
        classes: C, those with training images.
        features: F.
        directions: k.
        reference: R, familiar images; 0 until they are known.
    """

    means: torch.Tensor
    directions: torch.Tensor
    variances: torch.Tensor
    noise: torch.Tensor
    reference: torch.Tensor

    def __init__(self, classes: int, features: int, directions: int, reference: int) -> None:
        """Make room for the numbers."""
        super().__init__()
        self.register_buffer("means", torch.zeros(classes, features))
        self.register_buffer("directions", torch.zeros(features, directions))
        self.register_buffer("variances", torch.ones(directions))
        self.register_buffer("noise", torch.ones(()))
        self.register_buffer("reference", torch.zeros(reference, dtype=torch.float64))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """What it is built with."""
        return (*self.means.shape, self.directions.shape[1], len(self.reference))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (N, F) to squared distances from the nearest class, float64 (N,)."""
        # In float64, as what is left of large products is small; Apple's GPUs have none.
        place = torch.device("cpu") if features.device.type == "mps" else features.device
        images, means, directions, variances, noise = (
            values.to(place, torch.float64)
            for values in (features, self.means, self.directions, self.variances, self.noise)
        )
        centre = means.mean(dim=0)
        images, means = images - centre, means - centre
        weight = 1 / variances - 1 / noise  # of what the directions explain, beside the noise of all

        there = means @ directions
        theirs = (means**2).sum(dim=1) / noise + (there**2 * weight).sum(dim=1)

        def distance(some: torch.Tensor) -> torch.Tensor:
            here = some @ directions
            own = (some**2).sum(dim=1) / noise + (here**2 * weight).sum(dim=1)
            both = some @ means.T / noise + (here * weight) @ there.T
            return (own[:, None] - 2 * both + theirs).clamp_min(0).amin(dim=1)

        return one_by_one(distance, images)

    def judge_by(self, distances: torch.Tensor) -> None:
        """Remember the distances of familiar images that nothing was trained on, float64 (R,), R at least 1."""
        ordered = distances.double().cpu().sort().values
        rows = torch.linspace(0, len(ordered) - 1, min(len(ordered), _MOST_DISTANCES)).round().long()
        self.reference = ordered[rows]

    def share(self, distances: torch.Tensor) -> torch.Tensor | None:
        """Share of familiar images at least as far away as each of these, the image itself counted among them.

        For an image drawn like the familiar ones it lies at or below any level no more often than that level says (a
        conformal p-value: Vovk, Gammerman and Shafer 2005, "Algorithmic Learning in a Random World").

        Args:
            distances: (N,).

        Returns:
            float64 (N,), 1 / (R + 1) to 1; None before `judge_by`.
        """
        if not len(self.reference):
            return None
        closer = torch.searchsorted(self.reference.to(distances.device), distances)
        return (len(self.reference) - closer + 1).double() / (len(self.reference) + 1)


def one_by_one(function: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    """A function of (n, ...) of each of N rows, (N, ...), to the bits that it gives for one row alone.

    A product of matrices is added up in another order for another number of rows, so that an image's answer would
    depend on what else was asked at the same time. On a GPU, where a pass of one row costs as much as one of all, it
    still may.
    """
    if rows.device.type != "cpu" or len(rows) < 2:
        return function(rows)
    return torch.cat([function(row) for row in torch.split(rows, 1)])


@torch.no_grad()
def fit_familiarity(features: torch.Tensor, labels: torch.Tensor) -> Familiarity | None:
    """Estimate it; `judge_by` comes after.

    Args:
        features: Of training images, float32 (N, F).
        labels: Their classes, int64 (N,).

    Returns:
        None where no class has two training images that differ.
    """
    present, index = torch.unique(labels, return_inverse=True)
    means = torch.zeros(len(present), features.shape[1]).index_add_(0, index, features)
    means /= index.bincount()[:, None]
    rest = features - means[index]
    freedom, width = len(features) - len(present), features.shape[1]
    total = float(rest.square().sum())
    if freedom < 1 or total == 0:
        return None
    count = max(1, min(_DIRECTIONS, freedom // 4, width - 1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, sizes, directions = torch.svd_lowrank(rest, q=min(count + 8, *rest.shape), niter=3)
    variances, directions = sizes[:count].square() / freedom, directions[:, :count]
    left = max(total / freedom - float(variances.sum()), 0.0)
    noise = max(left / (width - len(variances)), 1e-6 * total / freedom / width)
    found = Familiarity(len(present), width, len(variances), 0)
    found.means.copy_(means)
    found.directions.copy_(directions)
    found.variances.copy_(variances.clamp_min(noise))
    found.noise.fill_(noise)
    return found
