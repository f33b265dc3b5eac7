"""The paper's evaluation: other solutions, what is measured of them, and how it is shown."""
