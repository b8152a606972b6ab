"""``daisyport demo``: a camera, three CPUs that share its line, and commands to try; gone without a trace.

It needs no hardware, no root and no network, and must not touch the machine's own configuration or state.
"""

from __future__ import annotations

from gateway.demo.chain import Chain
from gateway.demo.screen import Screen
from gateway.demo.show import cut_demo, demo, main

__all__ = ["Chain", "Screen", "cut_demo", "demo", "main"]
