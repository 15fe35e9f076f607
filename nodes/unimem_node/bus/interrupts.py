"""Interrupt lines: level-sensitive shared peripheral interrupts (SPI) of a GIC, as far as drivers see it.

Several devices may share a number: each asks for its own `Line`, and the interrupt is asserted while any of
them is high. The CPU takes an interrupt when it rises; a handler must therefore serve everything that holds
the line before it returns, as a driver of a shared interrupt does. What rises while a handler runs is taken
after it, in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

#: ``fn(spi, level)`` on each change.
Observer = Callable[[int, bool], None]
#: ``fn(spi)`` when an interrupt is taken.
Handler = Callable[[int], None]


class Line:
    """One device's wire to an interrupt."""

    __slots__ = ("_controller", "level", "spi")

    def __init__(self, controller: InterruptController, spi: int) -> None:
        self._controller = controller
        self.spi = spi
        self.level = False

    def set(self, level: bool) -> None:
        """Drive the wire high or low; the CPU's handler may run before this returns."""
        if level != self.level:
            self.level = level
            self._controller._changed(self.spi, 1 if level else -1)


class InterruptController:
    """Collects lines and tells observers and the CPU."""

    def __init__(self) -> None:
        self._high: dict[int, int] = {}  # number -> lines that are high
        self._observers: list[Observer] = []
        self._handler: Handler | None = None
        self._risen: deque[int] = deque()
        self._in_handler = False

    def line(self, spi: int) -> Line:
        """Return a new wire to interrupt `spi`, low."""
        if not 0 <= spi < 988:  # GICv2: SPI are INTID 32 to 1019
            raise ValueError(f"SPI {spi} does not exist (0 to 987)")
        return Line(self, spi)

    def pending(self) -> list[int]:
        """Return the interrupts now asserted, ascending."""
        return sorted(self._high)

    def subscribe(self, fn: Observer) -> Callable[[], None]:
        """Call ``fn(spi, level)`` on each change, before the CPU takes it; returns what ends that."""
        self._observers.append(fn)
        return lambda: self._observers.remove(fn)

    def connect_cpu(self, handler: Handler) -> None:
        """Let `handler` take interrupts from now on; those already asserted are taken at once."""
        self._handler = handler
        self._risen.extend(self.pending())
        self._deliver()

    def _changed(self, spi: int, by: int) -> None:
        before = self._high.get(spi, 0)
        after = before + by
        if after:
            self._high[spi] = after
        else:
            del self._high[spi]
        if bool(before) == bool(after):
            return
        for fn in tuple(self._observers):
            fn(spi, bool(after))
        if after and self._handler is not None:
            self._risen.append(spi)
            self._deliver()

    def _deliver(self) -> None:
        if self._in_handler or self._handler is None:
            return
        self._in_handler = True
        try:
            while self._risen:
                spi = self._risen.popleft()
                if spi in self._high:  # one that fell meanwhile is not seen by a level-sensitive GIC
                    self._handler(spi)
        finally:
            self._in_handler = False
