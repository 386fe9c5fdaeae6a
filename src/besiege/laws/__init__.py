"""Laws that every component obeys, problems with known answers, and defenses that are broken."""
