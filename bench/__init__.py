"""Measures Tidegate on this machine: `python -m bench`."""
