"""Telnet with the COM port option (RFC 2217): a serial port with its settings and lines, over one TCP connection."""
