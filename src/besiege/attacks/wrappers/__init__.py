"""What makes another attack of one, a file each."""
