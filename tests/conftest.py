"""What all tests share: what is left for the slow run, the garbage that is left alone, and where
random numbers begin.

What is loaded when the tests begin stays, so the garbage collector need not look at it again. A
reading makes many small objects, and with torch, sympy and the libraries of the tests loaded each
full collection goes over a million others: a tenth of the time of a test.
"""

import gc
import random

import numpy as np
import pytest
import torch


@pytest.hookimpl(tryfirst=True)  # before what is slow is left out
def pytest_collection_modifyitems(items):
    """Make slow what lies between the parameters that a test marked ``sample`` keeps."""
    tests = {}
    for item in items:
        if (mark := item.get_closest_marker("sample")) is not None:
            tests.setdefault(item.nodeid.partition("[")[0], (mark.args[0], []))[1].append(item)
    for number, own in tests.values():
        for i, item in enumerate(own):
            if i and i * number // len(own) == (i - 1) * number // len(own):
                item.add_marker(pytest.mark.slow)


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
