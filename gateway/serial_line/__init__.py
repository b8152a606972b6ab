"""The serial lines of this CPU: the tty, its settings, and the turns of its writers."""
