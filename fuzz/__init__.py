"""The tests' own properties, run on random and mutated bytes for as long as one likes: ``python -m fuzz``."""
