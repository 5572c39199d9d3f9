"""The network edge: carries bytes between nodes and never looks inside."""
