"""Reads an annotation file and makes sure that it is COCO detection JSON, before anybody looks at its records."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from fusion_det.config.json_text import parse_json
from fusion_det.data.ledger import printable
from fusion_det.errors import DataError

Record = dict[str, Any]
LISTS = ("images", "annotations", "categories")


class CocoFile(NamedTuple):
    """The three lists of records of a COCO file; each record is a dict, nothing else is checked yet."""

    images: list[Record]
    annotations: list[Record]
    categories: list[Record]


def read_coco(path: Path) -> CocoFile:
    """The records of a COCO detection file; a ``DataError`` names the file and, for broken JSON, line and column."""
    document = _parse(path, _read_text(path))
    kind = foreign_kind(document)
    if kind:
        raise DataError(f"this is {kind[0]}, not COCO detection annotations", where=str(path), mend=kind[1])
    lists = [document[key] for key in LISTS]
    for key, records in zip(LISTS, lists, strict=True):
        if not isinstance(records, list):
            raise DataError(f"'{key}' must be a list, got {type(records).__name__}", where=str(path))
        row = next((i for i, record in enumerate(records) if type(record) is not dict), None)
        if row is not None:
            raise DataError(f"{key}[{row}] must be an object, got {type(records[row]).__name__}", where=str(path))
    for key in ("images", "categories"):
        if not document[key]:
            raise DataError(f"'{key}' is empty", where=str(path), mend="give the file of a split that has pictures and classes")
    return CocoFile(*lists)


def _read_text(path: Path) -> str:
    if not path.is_file():
        what = "is not a file" if path.exists() else "annotation file not found"
        raise DataError(what, where=str(path), mend="check data.root and the split, or name the annotation file")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if not raw.strip():
        raise DataError(f"the annotation file is empty ({len(raw)} bytes)", where=str(path), mend="copy or download it again")
    try:
        return raw.decode(json.detect_encoding(raw))
    except UnicodeDecodeError as error:
        raise DataError(f"not text in {error.encoding} (byte {error.start})", where=str(path), mend="save it as UTF-8 JSON") from error


def _parse(path: Path, text: str) -> Any:
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        kind = _foreign_text(text)
        if kind:
            raise DataError(f"this is {kind}, not JSON", where=str(path), mend="convert it to COCO JSON first") from error
        truncated = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        what = "the JSON ends in the middle" if truncated else f"not valid JSON: {error.msg}"
        mend = "copy or download the file again" if truncated else ""
        raise DataError(what, where=f"{path}:{error.lineno}:{error.colno}", mend=mend) from error
    except RecursionError as error:
        raise DataError("the JSON is nested too deeply to be COCO annotations", where=str(path)) from error
    except ValueError as error:  # Python refuses whole numbers of thousands of digits
        raise DataError(f"the JSON holds a number that cannot be read: {printable(error)}", where=str(path)) from error


def _foreign_text(text: str) -> str:
    first = text.lstrip().split("\n", 1)[0].strip()[:500]
    if first.startswith("<"):
        return "HTML (a web page)" if "html" in first.lower() else "XML (Pascal VOC?)"
    if re.fullmatch(r"\d+(\s+[\d.eE+-]+){4,}", first):
        return "a YOLO label file"
    return ""


def foreign_kind(document: Any) -> tuple[str, str] | None:
    """What a parsed document is (and how to mend it) if it is not COCO detection annotations; ``None`` if it is."""
    if isinstance(document, list):
        if document and isinstance(document[0], dict) and "score" in document[0]:
            return "a COCO results file (detections)", "give the annotation file (instances_*.json) instead"
        return "a JSON list", "COCO annotations are an object with images, annotations and categories"
    if not isinstance(document, dict):
        return f"a JSON {type(document).__name__}", "COCO annotations are an object with images, annotations and categories"
    if "shapes" in document:
        return "a labelme file (one picture)", "convert the folder of labelme files to one COCO file"
    if any(key.startswith("_via_") for key in document):
        return "a VGG Image Annotator project", "export it as COCO"
    missing = [key for key in LISTS if key not in document]
    annotations = document.get("annotations")
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    if isinstance(first, dict) and "bbox" not in first:
        if "caption" in first:
            return "a COCO captions file", "give instances_*.json instead of captions_*.json"
        if "segments_info" in first:
            return "a COCO panoptic file", "give instances_*.json instead of panoptic_*.json"
    if "videos" in document:
        return "a video annotation file", "convert its frames to pictures with COCO annotations"
    if missing:
        there = ", ".join(printable(key, 30) for key in list(document)[:8]) or "nothing"
        return f"a JSON object without {' and '.join(missing)} (it has {there})", "export the data set as COCO detection JSON"
    return None
