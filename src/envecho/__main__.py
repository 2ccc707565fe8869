"""`python -m envecho`, which is also what `torchrun -m envecho` runs in each of its processes."""

from envecho.cli.main import main

if __name__ == "__main__":
    main()
