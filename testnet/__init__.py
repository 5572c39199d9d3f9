"""Runs many nodes: real processes on loopback, with a market and traders."""
