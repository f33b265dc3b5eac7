"""What ``gearnn doctor`` looks at."""
