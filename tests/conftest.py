"""What is loaded when the tests begin stays, so the garbage collector need not look at it again.

A reading makes many small objects, and with torch, sympy and the libraries of the tests loaded each
full collection goes over a million others: a tenth of the time of a test.
"""

import gc


def pytest_collection_finish():
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
