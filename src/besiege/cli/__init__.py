"""Floor 6: the command line; one thin file a command. Results on stdout, progress on stderr."""
