"""No claim of a report is made wrongly on more than 5 % of small test sets; `benchmarks/claims.py` draws more."""

from __future__ import annotations

import claims
import pytest


@pytest.mark.parametrize("claim", claims.CLAIMS)
def test_claims_are_seldom_wrong_and_made_where_they_are_right(claim: str) -> None:
    wrong = claims.share_claimed(claim, 30, 3, 200)
    assert wrong <= 0.08  # 5 % of 200 draws are 18 or more once in 200
    assert claims.share_claimed(claim, 300, 5, 20, truly=True) >= 0.6
