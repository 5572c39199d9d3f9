"""The few words that every other package shares. Pure."""
