from __future__ import annotations

import pytest
from fragments import random_data

import regraft
from regraft.data.dataset import Dataset
from regraft.data.dataset import Split as SplitValue


@pytest.fixture(scope="session")
def data() -> Dataset:
    return random_data()


@pytest.fixture(scope="session")
def parts(data: Dataset) -> SplitValue:
    return regraft.split(data, train=0.5, val=0.25, test=0.25)
