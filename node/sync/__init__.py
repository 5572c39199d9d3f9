"""Catching up: what a node that lags, or is new, fetches from many peers at once, and how it serves others."""
