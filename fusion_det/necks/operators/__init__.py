"""Operators that belong to a neck and are no general choice; the contract is that of ``fusion_det/fusion/``."""
