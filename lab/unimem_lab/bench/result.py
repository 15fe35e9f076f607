"""One figure of a benchmark."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """`value` in `unit`, beside `yardstick_value` in the same unit (None: there is none here).

    `wanted` bounds the ratio when there is a yardstick (or the value, when `absolute`): at least that much,
    or at most for figures of which less is better (`lower`).
    """

    name: str
    value: float
    unit: str
    yardstick: str = ""
    yardstick_value: float | None = None
    wanted: float | None = None
    lower: bool = False
    absolute: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """value / yardstick_value."""
        return self.value / self.yardstick_value if self.yardstick_value else None

    @property
    def reached(self) -> bool | None:
        """Is the wanted bound kept? None: nothing is wanted, or there is nothing to compare with."""
        measured = self.value if self.absolute else self.ratio
        if self.wanted is None or measured is None:
            return None
        return measured <= self.wanted if self.lower else measured >= self.wanted

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"ratio": self.ratio, "reached": self.reached}
