"""`python -m videogpt_plus`: the command line, as torchrun starts it."""

from videogpt_plus.app.cli import main

if __name__ == "__main__":
    main()
