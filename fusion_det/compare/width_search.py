"""Bisection for the width of a neck."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from fusion_det.errors import ConfigError

STEP, COARSEST = 8, 64
"""Widths are multiples of the first, or of as much as the second where parts take no others."""
WIDEST = 8192
SMALL_RATIO = 4
"""Up to this ratio of the neck's width to one inside it the proportion is kept exactly (HyperNet: three times 42 channels)."""


class WidthSearch:
    """Finds the width at which the detector of a config has a cost that grows with it.

    ``cost`` of a config raises ``ConfigError`` for widths that its parts do not take. Every width is tried once. ``unit``: what the cost
    is counted in, for people.
    """

    def __init__(
        self, config: Mapping[str, Any], cost: Callable[[Mapping[str, Any]], float], target: float, tolerance: float, unit: str
    ) -> None:
        self.config, self.cost, self.target, self.tolerance, self.unit = config, cost, target, tolerance, unit
        neck = config["neck"]
        self.own, self.inside = neck.get("channels"), neck.get("widths")
        if not isinstance(self.own, int):
            raise ConfigError("has no key channels that could be solved for", where="neck", mend="compare this arm as it is")
        self.factor = _factor(self.own, self.inside)
        self.widest = int(self.own / self.inside) if isinstance(self.inside, float) else WIDEST  # a share is at most 1
        self.costs: dict[int, float] = {}
        self.refusal: ConfigError | None = None

    def solve(self) -> int:
        """The config's own width if that will do, else the nearest multiple of the largest step that comes near enough."""
        if self._fits(self.own):
            return self.own
        step, ends = STEP, self._around(STEP)
        while ends is None and step < COARSEST:
            step *= 2
            ends = self._around(step)
        if ends is None:
            assert self.refusal is not None
            raise self.refusal
        finest = step if step > STEP else 1
        low, high = ends
        while not self._fits(best := self._nearer(low, high)):
            if step == finest:
                raise self._nothing_fits(low, high)
            step //= 2
            middle = self._costs(low + step * self.factor)
            if middle is None:
                raise self._nothing_fits(low, high)
            low, high = (low + step * self.factor, high) if middle <= self.target else (low, low + step * self.factor)
        return best

    def overrides(self, width: int) -> list[str]:
        """What sets the config to ``width``."""
        if width == self.own:
            return []
        inside = [] if self.inside is None else [f"neck.widths={str(self._inside(width)).replace(' ', '')}"]
        return [f"neck.channels={width}", *inside]

    def at(self, width: int) -> dict[str, Any]:
        """The config at ``width``."""
        changed = {"channels": width} if self.inside is None else {"channels": width, "widths": self._inside(width)}
        return {**self.config, "neck": {**self.config["neck"], **changed}}

    def cost_at(self, width: int) -> float:
        """The cost at ``width``; ``ConfigError`` if the parts do not take it."""
        if width not in self.costs:
            self.costs[width] = self.cost(self.at(width))
        return self.costs[width]

    def measure_again(self, width: int) -> float:
        """The cost at ``width``, anew."""
        del self.costs[width]
        return self.cost_at(width)

    def _costs(self, width: int) -> float | None:
        """The same; ``None`` for a width that is not taken."""
        try:
            return self.cost_at(width)
        except ConfigError as error:
            self.refusal = error
            return None

    def _fits(self, width: int) -> bool:
        return abs(self.cost_at(width) / self.target - 1) <= self.tolerance

    def _nearer(self, low: int, high: int) -> int:
        return min((width for width in (low, high) if width), key=lambda width: abs(self.cost_at(width) - self.target))

    def _around(self, step: int) -> tuple[int, int] | None:
        """Neighbouring multiples of ``step`` whose costs lie on both sides of the target, 0 for none below; ``None`` if one is refused."""
        step *= self.factor
        low, high = 0, max(1, self.own // step)
        while (cost := self._costs(high * step)) is not None and cost <= self.target:
            low, high = high, min(2 * high, self.widest // step)
            if high <= low:
                raise self._too_cheap(low * step)
        while cost is not None and high - low > 1:
            middle = (low + high) // 2
            if (cost := self._costs(middle * step)) is not None:
                low, high = (middle, high) if cost <= self.target else (low, middle)
        return None if cost is None else (low * step, high * step)

    def _inside(self, width: int) -> Any:
        """``neck.widths`` in proportion."""
        if isinstance(self.inside, list):
            return [max(1, round(own * width / self.own)) for own in self.inside]
        if isinstance(self.inside, float):
            return min(round(self.inside * width / self.own, 6), 1.0)
        return None if self.inside is None else max(1, round(self.inside * width / self.own))

    def _too_cheap(self, width: int) -> ConfigError:
        return ConfigError(
            f"costs {self._text(width)} even at {width} channels; the baseline costs {self._number(self.target)}",
            where="neck.channels",
            mend="match by another cost, or compare this arm as it is",
        )

    def _nothing_fits(self, low: int, high: int) -> ConfigError:
        nearest = " and ".join(f"{self._text(width)} at {width} channels" for width in (low, high) if width)
        reason = f"; widths between are refused: {self.refusal.what}" if self.refusal else ""
        fault = f"no width costs the baseline's {self._number(self.target)} within {self.tolerance:.1%}: {nearest}{reason}"
        return ConfigError(
            fault, where="neck.channels", mend="allow a larger tolerance, match by another cost, or compare this arm as it is"
        )

    def _text(self, width: int) -> str:
        cost = self.cost_at(width)
        return f"{self._number(cost)} ({cost / self.target - 1:+.1%})"

    def _number(self, cost: float) -> str:
        return f"{cost:.4g} {self.unit}"


def _factor(own: int, inside: Any) -> int:
    """What widths must be a multiple of, so that those inside keep their proportion."""
    parts = inside if isinstance(inside, list) else [inside] if isinstance(inside, int) else []
    ratios = [own // part for part in parts if own % part == 0]
    return math.lcm(*ratios) if len(ratios) == len(parts) and all(ratio <= SMALL_RATIO for ratio in ratios) else 1
