"""The deterministic simulator: real cores, journals and ledgers of N validators on one event heap."""
