"""What the code costs, measured: `quorate bench`. Reads the clock and prints."""
