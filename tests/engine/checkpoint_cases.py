"""States and files that the checkpoint tests share."""

import hashlib
import io
import struct
from pathlib import Path

import torch


def small_state(number: int, size: int = 50) -> dict:
    return {"model": {"weight": torch.full((size,), float(number)), "count": torch.tensor(number)}, "iteration": number}


def seal(archive: bytes) -> bytes:
    """The digest added by hand, as an attacker would do it (and as a second reading of the format)."""
    assert archive[-22:-18] == b"PK\5\6"
    assert archive[-2:] == b"\0\0"
    body = archive[:-2] + struct.pack("<H", 71)
    return body + b"sha256:" + hashlib.sha256(body).hexdigest().encode()


def torch_bytes(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
