"""This machine: its configuration file and its service manager."""
