"""Order flow of a testnet: makers, takers, a hedger and one who takes too much risk."""
