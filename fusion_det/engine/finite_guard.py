"""Stops a run whose loss or gradient is no longer a number, without making the GPU wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fusion_det.errors import FusionDetError


class _Watched(NamedTuple):
    step: int
    names: tuple[str, ...]
    image_ids: tuple[int, ...]
    values: Tensor
    copied: torch.cuda.Event | None


class FiniteGuard:
    """Reads each step's losses, and the norm of its gradient, when they have arrived on the host.

    On the CPU that is at once, so :meth:`check` raises before the optimizer has touched the weights. On a GPU the copy runs beside the
    computation and is looked at when it is done; ``check(wait=True)``, called before every save, looks at all of them, so a poisoned
    state is never written.
    """

    def __init__(self) -> None:
        self.watched: deque[_Watched] = deque()

    def watch(self, step: int, terms: dict[str, Tensor], image_ids: tuple[int, ...]) -> None:
        """Remember the losses of one batch, or other scalars that must be finite."""
        values = torch.stack([value.detach() for value in terms.values()])
        copied = None
        if values.is_cuda:
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)  # a copy into pageable memory would wait
            values = host.copy_(values, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        self.watched.append(_Watched(step, tuple(terms), image_ids, values, copied))

    def check(self, *, wait: bool = False, culprit: Callable[[], str] = str) -> None:
        """Raise ``FusionDetError`` for the first watched batch with a non-finite term, naming step, term, images and ``culprit()``."""
        while self.watched:
            entry = self.watched[0]
            if entry.copied is not None:
                if wait:
                    entry.copied.synchronize()
                elif not entry.copied.query():
                    return
            self.watched.popleft()
            finite = torch.isfinite(entry.values).tolist()
            if not all(finite):
                terms = zip(entry.names, entry.values.tolist(), finite, strict=True)
                bad = ", ".join(f"{name}={value}" for name, value, ok in terms if not ok)
                raise FusionDetError(
                    f"not finite: {bad} on images {list(entry.image_ids)}{culprit()}",
                    where=f"step {entry.step}",
                    mend="lower optimizer.lr, set trainer.clip_grad_norm, or use trainer.precision=fp32; last.pt is from before this step",
                )
