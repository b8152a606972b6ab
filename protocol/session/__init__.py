"""A session of a remote-port link: its streams, which outlive its connections."""
