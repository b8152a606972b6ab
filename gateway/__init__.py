"""The trio half of Daisyport: the daemon that owns the serial line and shares it."""

# The only place of the version. The packaging reads it here, since asking importlib.metadata slows down every start.
__version__ = "0.1.0"
