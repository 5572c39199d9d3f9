"""What every validator replays, to the last byte. Pure."""
