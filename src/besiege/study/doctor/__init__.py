"""What is asked of a model and a defense before any attack."""
