"""Frames, plots and pages."""
