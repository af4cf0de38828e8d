"""fusion_det: train object detectors and find out which feature fusion is better.

``fusion_det.load(checkpoint)`` gives a ready detector with ``predict(images)``. Importing the package opens nothing and imports
neither torch nor Hydra; both come when first needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

if TYPE_CHECKING:
    from fusion_det.inference import load


def __getattr__(name: str) -> Any:
    if name == "load":
        from fusion_det.inference import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
