"""The world outside: a synthetic or replayed market, and the venues that quote it."""
