"""Fusion operators: N >= 2 maps of equal shape become one.

Each file holds one operator. The contract:

- construction: ``Operator(channels, num_inputs, *, options)``;
- ``forward(inputs)``: a sequence of N tensors [B, C, H, W], the first being the node's own level -> [B, C, H, W]; works on RoI maps
  [K, C, 7, 7] too, at batch 1, in training and evaluation, under autocast; knows nothing of levels, strides or names;
- ``probe()``: what the operator decided in its last forward pass, as named tensors (empty if it decides nothing).
"""
