"""Fusion operators: N >= 2 maps of equal shape become one.

Each file holds one operator. The contract:

- construction: ``Operator(channels, num_inputs, *, options)``;
- ``forward(inputs)``: a sequence of N tensors [B, C, H, W], the first being the node's own level -> [B, C, H, W]; works on RoI maps
  [K, C, 7, 7] too, at batch 1, in training and evaluation, under autocast; knows nothing of levels, strides or names;
- ``probe()``: what the operator decided in its last forward pass, as named tensors (empty if it decides nothing); ``weights``
  [B, N, h, w] where it weighs its inputs; inside a detector only within ``remembering(model)``;
- ``reinforce(reward)`` and ``auxiliary_losses()``: for operators that draw a choice and learn from how good it was; else without effect.

Helpers that are no operators: ``gates`` (what gates share), ``fold`` (from two inputs to N), ``policy`` (score function), ``positions``.
"""
