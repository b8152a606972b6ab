"""Tools for trio: run things again after a failure, keep running what is wanted, watch one value."""
