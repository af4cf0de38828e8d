"""Detection heads. The contract:

- construction: ``Head(levels, num_classes, *, options)``;
- ``losses(features, targets) -> dict[str, Tensor]`` of named scalars; a batch without any object gives finite losses that touch
  every parameter;
- ``predict(features, sizes) -> RawDetections`` with the level index of every detection; no suppression inside a head.
"""
