"""Bonjour: which servers the neighbours announce, and which of ours are announced to them."""
