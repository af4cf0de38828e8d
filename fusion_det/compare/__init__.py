"""Comparing fusions honestly: runs of arms and seeds, and the statistics that say what their difference proves."""
