"""One connection of a remote-port link: the handshake, and the frames of the wire."""
