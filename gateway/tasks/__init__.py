"""Generic trio: run things again after a failure, keep what is wanted running, watch one value."""
