"""Settings of the tracer of ``torch.export`` that have no public switch."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

EXPORT_LOGGER = "torch._export.non_strict_utils"
"""Reports every call that the tracer meets and does not expect."""


@contextmanager
def lean() -> Iterator[None]:
    """Trace without what costs more than it gives.

    The tracer notes where in Python each node was made (a tenth of its time), and keeps a cache of
    fake results that does not pay where sizes are symbolic.
    """
    import torch._dynamo

    notes = torch.fx.config.do_not_emit_stack_traces
    torch.fx.config.do_not_emit_stack_traces = True
    try:
        with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
            yield
    finally:
        torch.fx.config.do_not_emit_stack_traces = notes


@contextmanager
def quiet(logger: str) -> Iterator[None]:
    """Keep a logger of torch from reporting what is expected here and handled."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
