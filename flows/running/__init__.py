"""How flows run: task runners, clusters, deployments, notes for whoever waits."""
