"""What one port is: a bus, the rights on it, and the plan of what it should be running."""
