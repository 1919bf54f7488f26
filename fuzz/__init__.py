"""Hostile inputs for everything that reads files: ``python -m fuzz``, or ``make fuzz``."""
