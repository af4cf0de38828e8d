"""Late fusion: candidates of one or several sources -> final detections, per class and image.

The contract: ``__call__(sources: Sequence[RawDetections]) -> Detections``; suppression inside one source is the trivial case.
"""
