"""Floor 2: classifiers with their preprocessing inside, one file per architecture."""
