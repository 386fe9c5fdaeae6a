"""Published figures beside what their protocol and a correct one give here; one file each."""
