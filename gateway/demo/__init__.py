"""``daisyport demo``: a simulated camera, three CPUs that share its line, and commands to try.

It needs no hardware, no root and no network. Everything is in a temporary directory and on loopback, so that it never
touches the machine's own configuration or state.
"""

from __future__ import annotations

from gateway.demo.chain import Chain
from gateway.demo.screen import Screen
from gateway.demo.show import cut_demo, demo, main

__all__ = ["Chain", "Screen", "cut_demo", "demo", "main"]
