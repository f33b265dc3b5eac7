"""``python -m flows.cli``, as scripts of before call it; ``gearnn`` also copes with a user's ``tasks.py``."""

from flows.cli.app import main

if __name__ == "__main__":
    main()
