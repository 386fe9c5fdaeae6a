"""The experiment file: its tables, what it may say, and what is wrong with it."""
