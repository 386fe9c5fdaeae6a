"""besiege lays siege to an image classifier guarded by input transformations."""
