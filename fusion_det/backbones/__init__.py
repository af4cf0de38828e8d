"""Backbones. The contract: ``levels`` (fine to coarse), ``mean`` and ``std`` of their pre-training (RGB, 0..255), and
``forward([B, 3, H, W]) -> list`` of one map [B, C_i, H / stride_i, W / stride_i] per level, NCHW."""
