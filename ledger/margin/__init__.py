"""Portfolio margin: scenarios, requirements, health. Pure."""
