"""The gateway process and the socket between it and its node."""
