"""What several rooms of tests use: networks, plans, servers, scenes, processes that end."""
