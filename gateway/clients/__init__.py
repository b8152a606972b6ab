"""The clients of a port: TCP clients, PTZ drivers and serial.cgi, and the relay that carries their bytes."""
