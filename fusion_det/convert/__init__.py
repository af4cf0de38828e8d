"""Detectors that others trained, as starting points for ours."""
