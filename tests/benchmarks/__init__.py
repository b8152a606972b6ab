"""How fast and how big, beside whichever of ser2net and socat is installed: no test, and nothing fails for being slow.

    python -m tests.benchmarks            under 3 minutes
    python -m tests.benchmarks --quick    under 30 seconds, coarser
    python -m tests.benchmarks --peers daisyport tuned --json figures.json

Absolute figures are the machine's; compare ratios, of one run, on a machine that does nothing else. `ser2net` runs
with its defaults, `tuned` with `chardelay: false`, `max` also with 64 KiB buffers and nodelay.
"""
