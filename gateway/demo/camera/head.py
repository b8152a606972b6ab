"""The part of the camera that moves, and the words for it; it knows no protocol and reads no clock.

It drives at a steady speed until it is stopped or reaches its end, and is at an absolute position as soon as
it is told to go there. Times are seconds of any one clock, given as `now`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

__all__ = ["ZOOM_PACE", "ZOOM_TOP", "Axis", "Head", "Heard", "moves"]

ZOOM_TOP = 7
ZOOM_PACE = 4
"""The speed of a zoom that names none, of `ZOOM_TOP`."""


@final
@dataclass(frozen=True, slots=True)
class Heard:
    """One message understood, or not: a line that says so, and what the camera answers (often nothing)."""

    line: str
    reply: bytes = b""


@final
@dataclass(slots=True)
class Axis:
    """Something that moves between two ends; `top_speed` in its units a second, times in seconds."""

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
        """Where it is now."""
        return self._within(self._start + self._speed * (now - self._since))

    def drive(self, speed: int, top: int, now: float) -> str:
        """Move on at `speed` of `top` (negative: backward; 0: stop) and say so; a stop says nothing."""
        self._start, self._since, self._speed = self.at(now), now, self.top_speed * speed / top
        if speed == 0:
            return ""
        return f"{self.name} {self.forward if speed > 0 else self.backward} speed {abs(speed)}"

    def go(self, position: float) -> None:
        """Be at `position`, or at the end nearest to it."""
        self._start, self._speed = self._within(position), 0.0

    def _within(self, position: float) -> float:
        return min(max(position, self.low), self.high)


@final
@dataclass(slots=True)
class Head:
    """What moves: pan and tilt in degrees (right and up are positive), zoom from 0 to 1, presets, power."""

    pan: Axis = field(default_factory=lambda: Axis("pan", "left", "right", -170, 170, 80))
    tilt: Axis = field(default_factory=lambda: Axis("tilt", "down", "up", -30, 90, 60))
    zoom: Axis = field(default_factory=lambda: Axis("zoom", "out", "in", 0, 1, 0.25))
    on: bool = True
    presets: dict[int, tuple[float, float, float]] = field(default_factory=dict)

    def go(self, pan: float, tilt: float) -> None:
        """Look there."""
        self.pan.go(pan)
        self.tilt.go(tilt)

    def where(self, now: float) -> str:
        """The position in words."""
        return f"pan {self.pan.at(now):.2f} tilt {self.tilt.at(now):.2f} zoom {self.zoom.at(now):.2f}"

    def remember(self, preset: int, now: float) -> str:
        """Keep the position under a number."""
        self.presets[preset] = self.pan.at(now), self.tilt.at(now), self.zoom.at(now)
        return f"preset {preset} set at {self.where(now)}"

    def recall(self, preset: int, now: float) -> str:
        """Go where a preset was set; without one stay."""
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
    """What an order to all axes at once comes to, in words."""
    return ", ".join(filter(None, said)) or "stop"
