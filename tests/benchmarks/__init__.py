"""Measure speed and size beside ser2net and socat, where they are installed. Nothing fails for being slow.

    python -m tests.benchmarks                    under 4 minutes
    python -m tests.benchmarks --quick            under a minute, coarser
    python -m tests.benchmarks --cases chained    over links: chained CPUs, and what else would be put there
    python -m tests.benchmarks --cases direct --peers daisyport tuned --json figures.json
    python -m tests.benchmarks --cases direct --rows "16 bytes" bulk    these rows alone

Absolute figures are the machine's; compare ratios, of one run, on a machine that does nothing else. `ser2net` runs
with its defaults, `tuned` with `chardelay: false`, `max` also with 64 KiB buffers and nodelay.

In the chained case all CPUs of a chain run on one machine and, like everything, on one core: that measures the work of
a link, without a network's own delay. `2 ser2net` is one hop, `3 ser2net` two; neither they nor plain TCP
encrypt, `socat+openssl` does.
"""
