"""What differs between tasks on frames: one file a problem, all behind :class:`gearnn.problems.problem.Problem`."""
