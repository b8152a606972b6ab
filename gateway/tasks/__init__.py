"""Generic trio: running things again, keeping what is wanted running, watching one value. It knows no port."""
