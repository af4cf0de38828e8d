"""Checkpoints: an ordinary ``torch.save`` archive of tensors and plain containers, sealed with the SHA-256 of its own bytes.

Neither the CRC of ZIP nor ``weights_only`` notices a flipped bit: of 2,000 single-bit flips in a 406 kB file, stock ``torch.load``
read 1,961 without a word as other weights. The digest sits in the archive comment, so ``torch.load(path, weights_only=True)`` of plain
PyTorch reads the file as well. It finds damage, not forgery: whoever can write the file can also write its digest.

At every instant of a save the folder holds a complete, verifiable checkpoint under a name that :func:`newest_good` knows.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import zipfile
from pathlib import Path
from typing import Any

import torch

from fusion_det.config.files import sync_folder
from fusion_det.engine.plain_state import plain_state, refuse_non_finite
from fusion_det.engine.staged_file import DIGEST_PREFIX, TRAILER_SIZE, StagedZip, remove_leftovers, second_name
from fusion_det.errors import CheckpointError, FusionDetError

FORMAT_VERSION = 1
_END_RECORD_SIZE = 22  # of a ZIP archive, in front of its comment

logger = logging.getLogger(__name__)


def save_checkpoint(path: str | Path, state: dict[str, Any], *, keep: int = 2) -> None:
    """Write ``state`` to ``path`` whole or not at all; what was there becomes ``previous.pt`` (see :func:`history`).

    ``state`` is nested dicts, lists and tuples of tensors, str, int, float, bool and None; ``format_version`` is added. ``keep`` counts
    the checkpoints that stay, the new one included. Raises :class:`TypeError` naming the key path of anything else in ``state``,
    :class:`FusionDetError` for non-finite weights under ``model`` or ``ema`` and for a disk that refuses; then the old files stay.
    """
    if keep < 1:
        raise ValueError(f"keep: expected at least 1, got {keep}")
    if state.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        raise ValueError(f"format_version: expected {FORMAT_VERSION} or none, got {state['format_version']!r}")
    target = Path(path)
    plain = plain_state({**state, "format_version": FORMAT_VERSION})
    refuse_non_finite(plain, "model", "ema")
    try:
        names = history(target, keep)
        remove_leftovers(names)
        _publish(_write(target, plain), names)
    except OSError as error:
        raise FusionDetError(
            f"cannot save the checkpoint: {error.strerror or error}",
            where=str(path),
            mend="free some space or choose another run folder; the last complete checkpoint is kept",
        ) from error


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The state that :func:`save_checkpoint` wrote, with all tensors on the CPU.

    The bytes that are verified are the bytes that are read. Raises :class:`CheckpointError` for a file that is missing, damaged or not
    ours; nothing that it holds is executed.
    """
    source = Path(path)
    content = _verified_bytes(source)
    foreign = CheckpointError("not a fusion_det checkpoint", where=str(path), mend="give a last.pt or best.pt of a run folder")
    try:
        _refuse_inflation(content)
        state = plain_state(torch.load(io.BytesIO(content), weights_only=True, map_location="cpu"))
    except MemoryError:
        raise
    except Exception as error:
        logger.debug("%s cannot be read", path, exc_info=error)
        raise CheckpointError(
            "holds something other than tensors and plain containers; nothing of it was used",
            where=str(path),
            mend="use only checkpoints from a source that you trust",
        ) from error
    if not isinstance(state, dict) or "format_version" not in state:
        raise foreign
    if state["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"format version {state['format_version']!r}, but this fusion_det reads version {FORMAT_VERSION}",
            where=str(path),
            mend="use the fusion_det version that wrote it",
        )
    return state


def newest_good(folder: str | Path) -> Path | None:
    """The newest undamaged one of ``last.pt``, ``previous.pt``, ``previous_2.pt``, ... in ``folder``; ``None`` if there is none at all.

    Falling back is told as a warning. Raises :class:`CheckpointError` if all of them are damaged: to start afresh without a word
    would throw a run away.
    """
    last = Path(folder) / "last.pt"
    present = [name for name in history(last, 1 + len(list(Path(folder).glob("previous*.pt")))) if name.exists()]
    for candidate in present:
        try:
            _verified_bytes(candidate)
        except CheckpointError as error:
            logger.warning("%s", error)
            continue
        if candidate != last:
            logger.warning("%s is missing or damaged: falling back to %s", last, candidate)
        return candidate
    if present:
        raise CheckpointError(
            f"none of {', '.join(name.name for name in present)} is whole", where=str(folder), mend="restore a copy, or start a new run"
        )
    return None


def history(path: str | Path, keep: int) -> list[Path]:
    """The ``keep`` names of a checkpoint, newest first: ``last.pt``, ``previous.pt``, ``previous_2.pt``, ...

    Any other name is put in front: ``best.pt``, ``best_previous.pt``, ``best_previous_2.pt``.
    """
    newest = Path(path)
    stem = "previous" if newest.stem == "last" else f"{newest.stem}_previous"
    older = [stem if age == 1 else f"{stem}_{age}" for age in range(1, keep)]
    return [newest, *(newest.with_name(name + newest.suffix) for name in older)]


def _write(target: Path, state: dict[str, Any]) -> Path:
    """A complete temporary file beside ``target``, on the disk."""
    staged = StagedZip(target)
    try:
        torch.save(state, staged)  # type: ignore[arg-type]
        staged.seal()
    except BaseException:
        with contextlib.suppress(OSError):
            staged.close()
        _discard(staged.path)
        raise
    return staged.path


def _publish(staged: Path, names: list[Path]) -> None:
    """Rename ``staged`` to ``names[0]`` and move what was there down the list.

    The new file is in place before an older one is given up: were ``last.pt`` damaged, ``previous.pt`` must outlive it.
    """
    newest, *older = names
    link = None
    try:
        if older and newest.exists():
            link = second_name(newest, older[0])
        staged.replace(newest)
        if link:
            for younger, name in zip(reversed(older[:-1]), reversed(older[1:]), strict=True):
                if younger.exists():
                    younger.replace(name)
            link.replace(older[0])
        sync_folder(newest.parent)
    except BaseException:
        _discard(staged)
        if link:
            _discard(link)
        raise


def _discard(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _verified_bytes(path: Path) -> bytes:
    """The content of ``path``, or a :class:`CheckpointError` if it is not exactly what was once written."""
    where = str(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        mend = "check the path; a run folder holds last.pt and best.pt"
        raise CheckpointError(f"cannot read the checkpoint: {error.strerror or error}", where=where, mend=mend) from error
    body, trailer = memoryview(content)[:-TRAILER_SIZE], content[-TRAILER_SIZE:]
    if trailer == DIGEST_PREFIX + hashlib.sha256(body).hexdigest().encode() and bytes(body[-_END_RECORD_SIZE:]).startswith(b"PK\5\6"):
        return content
    without_comment = content[-_END_RECORD_SIZE:].startswith(b"PK\5\6")
    if content and (without_comment or not content.startswith(b"PK\3\4")) and not trailer.startswith(DIGEST_PREFIX):
        mend = "give a last.pt or best.pt of a run folder"
        raise CheckpointError("not a fusion_det checkpoint: it does not carry a digest", where=where, mend=mend)
    others = [name for name in history(path, 3)[1:] if name.exists()]
    raise CheckpointError(
        "the checkpoint is empty"
        if not content
        else f"the checkpoint is damaged or cut short ({len(content)} bytes, digest does not match)",
        where=where,
        mend=f"use the previous one, {others[0]}" if others else "restore a copy, or train again",
    )


def _refuse_inflation(content: bytes) -> None:
    """Raise :class:`ValueError` for an archive that would become larger in memory than the file is; ours are stored uncompressed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(record.file_size for record in archive.infolist()) > len(content):
            raise ValueError("the archive claims more bytes than the file has")
