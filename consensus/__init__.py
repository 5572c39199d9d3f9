"""The BFT core: Simplex with carried votes. Pure: no clock, no randomness, no I/O."""
