"""The documentation, and what generates parts of it: ``python docs/generate.py``."""
