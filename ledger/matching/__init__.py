"""Orders, resting books and the uniform-price call. Pure."""
