"""Closed forms: ints in, int bytes (or counts) out. No I/O, no torch, no knowledge of trainers."""
