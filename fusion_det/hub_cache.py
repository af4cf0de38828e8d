"""Weight files that torch.hub or torchvision once downloaded; nothing is ever downloaded here."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import torch

from fusion_det.errors import CheckpointError, ConfigError


def cached_file(name: str, *, where: str, fetch: str) -> Path:
    """The file ``name`` of torch's cache (``$TORCH_HOME/hub/checkpoints``, by default under ``~/.cache/torch``), its digest checked.

    Such names end with the first digits of the file's SHA-256: ``vgg16-397923af.pth``. ``where``: the config key that asks for it;
    ``fetch``: the Python expression that makes torchvision download it. ``ConfigError`` if it is not there, ``CheckpointError`` if it
    is not what its name says.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / name
    if not path.is_file():
        mend = f"put it there: with a network `{fetch}` in Python does so (TORCH_HOME moves the folder)"
        raise ConfigError(f"no file {name} in {folder}, and nothing is downloaded during a run", where=where, mend=mend)
    digits = re.search(r"-([0-9a-f]{8,64})\.", name)
    if digits is not None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not digest.startswith(digits[1]):
            mend = f"remove it and fetch it again with `{fetch}`"
            raise CheckpointError("the file is damaged or another one: its SHA-256 is not that of its name", where=str(path), mend=mend)
    return path
