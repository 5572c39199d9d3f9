"""Expiry, liquidation and the insurance fund. Pure."""
