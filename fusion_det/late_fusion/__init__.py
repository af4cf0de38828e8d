"""Late fusion: candidates of one or several sources -> final detections, per class and image.

The contract: ``__call__(sources: Sequence[RawDetections], weights: Sequence[float] | None = None) -> Detections``. Sources are scales,
flips, models or files; suppression inside one source is the trivial case.
``base.py`` holds what the methods share; a method is one ``fuse``.
"""
