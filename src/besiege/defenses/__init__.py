"""Floor 2: transforms, chains of them, and the defense that is deployed."""
