"""The trio half of Daisyport: the daemon that owns the serial line and shares it."""
