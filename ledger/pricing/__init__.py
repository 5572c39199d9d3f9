"""Option values and volatility surfaces; the kernel is the one place with floats. Pure."""
