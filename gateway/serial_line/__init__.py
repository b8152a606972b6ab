"""A serial line of our own: the tty, its settings, and the turns that its writers take."""
