"""Real market data through the real parts: option chains to marks, crashes through the ledger. Disk."""
