"""Starting from a file: the same run again, or new training from old weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fusion_det.build import PARTS, only_parts
from fusion_det.config.differences import FREE_KEYS, differing
from fusion_det.convert.torchvision_models import PREFIX
from fusion_det.engine.checkpoint import load_checkpoint
from fusion_det.errors import CheckpointError, ConfigError, raise_all

logger = logging.getLogger(__name__)


def check_same_run(state: Mapping[str, Any], config: Mapping[str, Any], class_names: tuple[str, ...], *, where: str) -> None:
    """Refuse (``ConfigError``, one line a key) to continue ``state`` with a config or classes that would make it another run."""
    if tuple(state["class_names"]) != class_names:
        raise CheckpointError(
            f"it was trained on {len(state['class_names'])} classes {list(state['class_names'])[:5]}, "
            f"the data has {len(class_names)}: {list(class_names)[:5]}",
            where=where,
            mend="resume with the same data, or start anew with init_from=",
        )
    raise_all(
        [
            ConfigError(
                f"the run was started with {old!r}, now it is {new!r}",
                where=key,
                mend="resume with the same value, or start a new run with init_from=",
            )
            for key, (old, new) in differing(state["config"], config, free=FREE_KEYS).items()
        ]
    )


def check_source(init_from: str) -> None:
    """Refuse weights of torchvision's that are not there before any data is read; checkpoints were looked for with the config."""
    if init_from.startswith(PREFIX):
        from fusion_det.convert.torchvision_weights import find_file  # slow to import, seldom used

        find_file(init_from, where="init_from")


def initialise_from(path: str | Path, model: nn.Module, *, parts: Sequence[str] = PARTS, class_names: Sequence[str] | None = None) -> None:
    """Take over every tensor of a fusion_det checkpoint (averaged weights first) whose name and shape fit; log what did not.

    ``parts``: which children of the detector take tensors, and are spoken of in the log. Two detectors that differ in their neck
    start from equal terms with the other parts only.

    ``torchvision:MODEL`` and ``torchvision:MODEL:FILE`` are weights of torchvision's detectors, whose classes are chosen by
    ``class_names``. Raises ``CheckpointError`` if nothing fits.
    """
    if str(path).startswith(PREFIX):
        from fusion_det.convert.torchvision_weights import load_torchvision  # slow to import, seldom used

        load_torchvision(model, str(path), parts=parts, class_names=class_names)
        return
    state = load_checkpoint(path)
    source: dict[str, Tensor] = only_parts(state["ema"] or state["model"], parts)
    own = only_parts(model.state_dict(), parts)
    fitting = {key: value for key, value in source.items() if key in own and own[key].shape == value.shape}
    if not fitting:
        raise CheckpointError("none of its tensors fits this model", where=str(path), mend="check backbone=, neck=, head= and init_parts=")
    model.load_state_dict(fitting, strict=False)
    reshaped = [key for key, value in source.items() if key in own and own[key].shape != value.shape]
    missing = [key for key in own if key not in source]
    unexpected = [key for key in source if key not in own]
    logger.info("init_from %s: %d of %d tensors taken", path, len(fitting), len(own))
    for what, keys in (("of another shape", reshaped), ("missing in the file", missing), ("not in this model", unexpected)):
        if keys:
            logger.info("  %d %s: %s%s", len(keys), what, ", ".join(keys[:5]), " ..." if len(keys) > 5 else "")
