"""Composition and I/O: the one place where the parts meet."""
