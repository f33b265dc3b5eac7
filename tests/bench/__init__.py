"""What the project promises, measured as ratios: `make bench`, or `python -m tests.bench --only WORD`."""
