"""The attacker that works out by measurement what to attack a defense with."""
