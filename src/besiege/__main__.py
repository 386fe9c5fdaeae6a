"""`python -m besiege` is `besiege`."""

from besiege.cli.main import main

if __name__ == "__main__":
    main()
