"""The tests under other arithmetic than this machine's own: `make test-anywhere`, see CONTRIBUTING.md."""
