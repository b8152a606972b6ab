"""The command line: one file a command. It turns words into calls, and errors into a line and an exit status."""
