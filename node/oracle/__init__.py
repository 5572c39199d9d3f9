"""A validator's own eyes: venue quotes in, aggregated prices and fitted volatility slices out."""
