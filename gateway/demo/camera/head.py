"""The part of the camera that moves, independent of a protocol.

An axis moves at a constant speed until it is stopped or reaches its end, and takes an absolute position at once. Times
are seconds of any one clock, and are always given as ``now``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from protocol.frozen import frozen

__all__ = ["ZOOM_SPEED", "ZOOM_TOP", "Axis", "Head", "Heard", "moves"]

ZOOM_TOP = 7
ZOOM_SPEED = 4
"""The speed of a zoom whose message has none, from 1 to ``ZOOM_TOP``."""


@final
@frozen
class Heard:
    """A message that the camera received: a line that describes it, and the answer (often empty)."""

    line: str
    reply: bytes = b""


@final
@dataclass(slots=True)
class Axis:
    """An axis that moves between ``low`` and ``high``, at most at ``top_speed`` in its units a second.

    The position is computed when it is asked for: ``_start`` at the time ``_since``, and ``_speed`` from then on.
    """

    name: str
    backward: str
    forward: str
    low: float
    high: float
    top_speed: float
    _start: float = 0.0
    _speed: float = 0.0
    _since: float = 0.0

    def at(self, now: float) -> float:
        """Return the position at this time."""
        return self._within(self._start + self._speed * (now - self._since))

    def drive(self, speed: int, top: int, now: float) -> str:
        """Move at ``speed`` / ``top`` of the top speed, backward if negative. Return words for it, none for a stop."""
        self._start, self._since, self._speed = self.at(now), now, self.top_speed * speed / top
        if speed == 0:
            return ""
        return f"{self.name} {self.forward if speed > 0 else self.backward} speed {abs(speed)}"

    def go(self, position: float) -> None:
        """Take this position, or the end nearest to it, and stop."""
        self._start, self._speed = self._within(position), 0.0

    def _within(self, position: float) -> float:
        return min(max(position, self.low), self.high)


@final
@dataclass(slots=True)
class Head:
    """Pan and tilt in degrees (right and up are positive), zoom from 0 to 1, presets and power."""

    pan: Axis = field(default_factory=lambda: Axis("pan", "left", "right", -170, 170, 80))
    tilt: Axis = field(default_factory=lambda: Axis("tilt", "down", "up", -30, 90, 60))
    zoom: Axis = field(default_factory=lambda: Axis("zoom", "out", "in", 0, 1, 0.25))
    on: bool = True
    presets: dict[int, tuple[float, float, float]] = field(default_factory=dict)

    def go(self, pan: float, tilt: float) -> None:
        """Take this position, in degrees."""
        self.pan.go(pan)
        self.tilt.go(tilt)

    def where(self, now: float) -> str:
        """Return a description of the position."""
        return f"pan {self.pan.at(now):.2f} tilt {self.tilt.at(now):.2f} zoom {self.zoom.at(now):.2f}"

    def remember(self, preset: int, now: float) -> str:
        """Store the position as a preset."""
        self.presets[preset] = self.pan.at(now), self.tilt.at(now), self.zoom.at(now)
        return f"preset {preset} set at {self.where(now)}"

    def recall(self, preset: int, now: float) -> str:
        """Take the position of a preset; stay if it is not set."""
        if preset not in self.presets:
            return f"preset {preset} is not set"
        pan, tilt, zoom = self.presets[preset]
        self.go(pan, tilt)
        self.zoom.go(zoom)
        return f"go to preset {preset}: {self.where(now)}"

    def forget(self, preset: int) -> str:
        """Clear a preset."""
        self.presets.pop(preset, None)
        return f"preset {preset} cleared"


def moves(*said: str) -> str:
    """Return one description of what several axes do; they stop if none moves."""
    return ", ".join(filter(None, said)) or "stop"
