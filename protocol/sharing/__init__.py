"""How masters share a line: where a request, its reply and a message end, by pure rules."""
