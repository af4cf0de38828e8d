"""How the deepest level is enriched before the fusion: ``Context(channels, *, options)``, forward [B, C, H, W] -> [B, C, H, W].

The call is that of a block, so each serves as a block too (Balanced FPN refines its gathered map by non-local attention).
"""
