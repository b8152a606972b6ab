"""Hypothesis without its own clock: a busy machine is no failure. `--hypothesis-profile=long` looks further."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("daisyport", deadline=None)
settings.register_profile("long", deadline=None, max_examples=10_000)
settings.load_profile("daisyport")
