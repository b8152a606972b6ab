"""The daemon on real drivers: a small emulated machine with UARTs, and USB adapters that are plugged in from here."""
