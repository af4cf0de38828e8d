"""The errors a user can cause, each told in one line: what is wrong, where, and how to mend it.

Exit codes of every tool: 0 done, 1 run-time failure (non-finite loss, no space), 2 usage or config error, 3 data error (images,
annotations, checkpoints), 4 expectation not met, 130 stopped by Ctrl-C and 143 by SIGTERM, both after a checkpoint was written.
Anything that is not a :class:`FusionDetError` is a programmer's error and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


class FusionDetError(Exception):
    """A fault told in one line: ``what`` went wrong, ``where`` (file, key, record) and how to ``mend`` it."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        self.what, self.where, self.mend = what, where, mend
        super().__init__(what, where, mend)

    @property
    def lines(self) -> list[str]:
        """One printable line per fault."""
        text = f"{self.where}: {self.what}" if self.where else self.what
        text = f"{text} -> {self.mend}" if self.mend else text
        return [" ".join(text.split())]

    def __str__(self) -> str:
        return "\n".join(self.lines)


class ConfigError(FusionDetError):
    """A key, value or combination in the config that cannot work."""

    exit_code = 2


class DataError(FusionDetError):
    """An image, annotation file or data set that cannot be used."""

    exit_code = 3


class CheckpointError(FusionDetError):
    """A checkpoint that is damaged, foreign, or does not fit."""

    exit_code = 3


class ExpectationError(FusionDetError):
    """A result outside the range that the config demanded (``eval.expect``)."""

    exit_code = 4


class Faults(FusionDetError):
    """Several faults found in one pass, one line each; the exit code is that of the first."""

    def __init__(self, faults: Sequence[FusionDetError]) -> None:
        if not faults:
            raise ValueError("Faults needs at least one fault")
        super().__init__(faults[0].what, where=faults[0].where, mend=faults[0].mend)
        self.faults = list(faults)
        self.exit_code = faults[0].exit_code

    @property
    def lines(self) -> list[str]:
        return [line for fault in self.faults for line in fault.lines]


def raise_all(faults: Sequence[FusionDetError]) -> None:
    """Raise nothing, the only fault, or all of them at once."""
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise Faults(faults)
