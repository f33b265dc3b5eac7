"""Steps from adaptors to versions in use: register, decide, report."""
