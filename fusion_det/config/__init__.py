"""Configuration and command line: composing, checking, building, the run folder.

Importing this package imports nothing else: the help text must come at once, and a loaded checkpoint needs no Hydra.
"""
