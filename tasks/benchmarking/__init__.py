"""Steps of a benchmark beside those of an adaptation: other solutions, measurements, the page."""
