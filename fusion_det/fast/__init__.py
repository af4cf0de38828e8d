"""A trained detector made ready for nothing but prediction.

``folding.py`` takes BatchNorm away, ``packing.py`` reorders weights, ``winograd.py`` saves multiplications of 3x3 convolutions.
"""
