"""Floor 2: index-stable image sets, one file per data set."""
