"""Detection heads. The contract, which ``tests/heads/test_head_contract.py`` asks of every YAML under ``configs/head``:

- construction: ``Head(levels, num_classes, *, options)``;
- ``losses(features, targets) -> dict[str, Tensor]`` of named scalars; a batch without any object gives finite losses that touch
  every parameter; no loop over pictures, nothing that makes the host wait for the device, float32 under autocast;
- ``predict(features, sizes) -> RawDetections`` with the level index of every detection; no suppression inside a head.

What heads share: ``dense`` (towers, flattening, candidates), ``points``, ``anchors`` (grids of boxes), ``box_coder``, ``overlap``,
``matching`` (by IoU, with crowds), ``atss``, ``assignment``, ``sampling`` (masks in place of index lists).
"""
