"""What a level ablation found, as data and as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from fusion_det.evaluation.box_metrics import Number

Action = Literal["drop", "keep"]
Replacement = Literal["zero", "mean"]
NUMBERS = ("AP", "AP50", "APs", "APm", "APl", "AR100")
CAVEAT = "reliance, not need: this detector was trained with all levels; one trained without a level may do well without it"


class Variant(NamedTuple):
    """``drop``: ``level`` is replaced; ``keep``: all levels but ``level`` are."""

    action: Action
    level: str
    replacement: Replacement


@dataclass(frozen=True)
class LevelReliance:
    """How far a trained detector leans on each level of one of its parts. Numbers are in 0..1; ``None`` is undefined."""

    part: str
    """Whose maps were replaced: ``neck`` (what the head sees) or ``backbone`` (what the neck sees)."""
    levels: tuple[str, ...]
    """Fine to coarse."""
    untouched: dict[str, Number]
    """:data:`NUMBERS` with all levels as they are."""
    variants: dict[Variant, dict[str, Number]]
    """The same with maps replaced."""

    def as_dict(self) -> dict[str, Any]:
        """Plain containers for a JSON file."""
        rows = [variant._asdict() | values for variant, values in self.variants.items()]
        return {"caveat": CAVEAT, "part": self.part, "levels": list(self.levels), "untouched": dict(self.untouched), "variants": rows}

    def table(self) -> str:
        """One line per variant: AP and its like times 100, and the change in AP."""
        width = max(len(f"keep only {level}, the others mean") for level in self.levels)
        header = f"{'':<{width}}  change  " + "  ".join(f"{name:>5}" for name in NUMBERS)
        lines = [f"levels of the {self.part} replaced, x 100 ({CAVEAT})", header]
        lines.append(f"{'all levels as they are':<{width}}          " + _cells(self.untouched))
        for variant, values in self.variants.items():
            if variant.action == "drop":
                words = f"{variant.level} replaced by {variant.replacement}"
            else:
                words = f"keep only {variant.level}, the others {variant.replacement}"
            before, after = self.untouched["AP"], values["AP"]
            change = "     -" if before is None or after is None else f"{100 * (after - before):+6.1f}"
            lines.append(f"{words:<{width}}  {change}  {_cells(values)}")
        return "\n".join(lines)


def _cells(values: dict[str, Number]) -> str:
    return "  ".join("    -" if values[name] is None else f"{100 * (values[name] or 0.0):5.1f}" for name in NUMBERS)
