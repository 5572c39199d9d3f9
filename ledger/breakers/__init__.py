"""State drift and breakers: when trading of an underlying pauses, and what is allowed meanwhile. Pure."""
