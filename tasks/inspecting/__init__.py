"""What commands show of a plan's frames, network and sensing; no step, nothing is kept."""
