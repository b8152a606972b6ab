"""Bonjour: see the servers that the neighbours announce, and announce ours to them."""
