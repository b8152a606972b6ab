"""The trio half of Daisyport: the daemon that owns the serial line and shares it."""

# Written here alone: the packaging reads it, for asking importlib.metadata would slow down every start.
__version__ = "0.1.0"
