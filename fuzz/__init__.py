"""Run the properties of the tests on random and mutated bytes: ``python -m fuzz NAME``."""
