"""Attentive pooling: from a vector for each position of a map, or each patch, to one vector that is learned.

Input: (N, P, D). Output: (N, D).
"""

from __future__ import annotations

import torch
from torch import nn

#: Largest number of queries.
_QUERIES = 32


class AttentionPooling(nn.Module):
    """Queries that each average a share of the channels over the positions, weighted by their own attention.

    This is efficient probing (Psomas et al. 2025, arXiv 2506.10178): the queries are learned, the positions themselves
    are the keys, and only the values are projected. Here the projection starts as the identity and the queries near
    zero, so training starts from the mean over the positions. The number of queries divides that of the channels.
    """

    def __init__(self, channels: int, queries: int = 0) -> None:
        """Draw the queries from torch's random state; 0: as many as possible up to 32."""
        super().__init__()
        count = queries or next(number for number in range(_QUERIES, 0, -1) if not channels % number)
        self.queries = nn.Parameter(0.02 * torch.randn(count, channels))
        self.values = nn.Linear(channels, channels)
        nn.init.eye_(self.values.weight)
        nn.init.zeros_(self.values.bias)

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """Pool (N, P, D) to (N, D)."""
        count, channels = self.queries.shape
        attention = (positions @ self.queries.T * channels**-0.5).softmax(dim=1)  # (N, P, Q)
        values = self.values(positions).unflatten(2, (count, channels // count))
        pooled: torch.Tensor = (attention[..., None] * values).sum(dim=1).flatten(1)
        return pooled
