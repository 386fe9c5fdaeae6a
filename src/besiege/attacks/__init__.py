"""Floor 3: threats, losses, oracles, attacks and the search that runs them."""
