"""How the command writes an argument of the library: as its own option, where it has one."""

from __future__ import annotations

import argparse

_OPTIONS = {"example_inputs": "input"}  # where the names differ

# Arguments without an option that its messages can name, and the call of Python that takes each.
_IN_PYTHON = {
    "keys": "weightscope.analyze",
    "loss": "weightscope.analyze",
    "stages": "weightscope.analyze",
    "bottleneck": "Proposal.build",
    "reach": "Proposal.build",
    "width": "Proposal.build",
}


def write_keyword(options: argparse.Namespace, name: str, value: str) -> str:
    """An argument as the shell takes it, or as the call of Python that takes it.

    Example:
        >>> options = argparse.Namespace(input=None, images=None)
        >>> write_keyword(options, "example_inputs", ""), write_keyword(options, "images", "x")
        ('--input', '--images x')
        >>> write_keyword(options, "stages", "")
        'stages= of weightscope.analyze in Python'
    """
    if name == "model_factory":
        return "FACTORY"
    own = _OPTIONS.get(name, name)
    if name == "batches" and not getattr(options, "batches", None):
        own = "data"
    if isinstance(getattr(options, own, None), bool):
        return f"--{own.replace('_', '-')}"
    if hasattr(options, own):
        return f"--{own.replace('_', '-')} {value}".rstrip()
    call = f" of {_IN_PYTHON[name]}" if name in _IN_PYTHON else ""
    return f"{name}={value}{call} in Python"
