"""Measured once, read many times: results that a report needs again, in the study's folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from fusion_det.compare.done import read_json
from fusion_det.config.files import write_json

FOLDER, FORMAT = "insight", 1
"""``FORMAT`` goes up with every change of what is measured; older results are then measured again."""


class Kept:
    """Results of one ``kind`` by a digest of all that they depend on, in ``insight/<kind>.json``; a damaged file holds none."""

    def __init__(self, study: Path, kind: str) -> None:
        self.path, self.kind = study / FOLDER / f"{kind}.json", kind
        found = read_json(self.path) or {}
        results = found.get("results") if found.get("format") == FORMAT else None
        self.results: dict[str, Any] = {k: v for k, v in results.items() if isinstance(v, dict)} if isinstance(results, dict) else {}

    def key(self, **depends_on: Any) -> str:
        """The digest of plain values."""
        return hashlib.sha256(json.dumps([FORMAT, self.kind, depends_on], sort_keys=True, default=str).encode()).hexdigest()

    def __contains__(self, key: str) -> bool:
        return key in self.results

    def __getitem__(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = self.results[key]
        return found

    def put(self, key: str, result: dict[str, Any]) -> dict[str, Any]:
        """Keep ``result``, at once on disk, and give it back as it will be read. Raises ``OSError``."""
        self.results[key] = json.loads(json.dumps(result))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"format": FORMAT, "results": self.results})
        return self[key]
