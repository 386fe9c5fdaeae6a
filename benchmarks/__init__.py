"""Speed beside what a user would run instead: `make bench`."""
