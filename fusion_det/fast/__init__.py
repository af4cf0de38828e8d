"""A trained detector made ready for nothing but prediction: ``folding.py`` takes BatchNorm away, ``packing.py`` reorders weights."""
