"""What all tests share: the garbage that is left alone, and where random numbers begin.

What is loaded when the tests begin stays, so the garbage collector need not look at it again. A
reading makes many small objects, and with torch, sympy and the libraries of the tests loaded each
full collection goes over a million others: a tenth of the time of a test.
"""

import gc
import random

import numpy as np
import pytest
import torch


def pytest_collection_finish():
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same whatever ran before; some versions of torch begin anywhere."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
