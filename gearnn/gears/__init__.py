"""Ways to hold the gears of a gearbox: many adaptors resident beside one base (section 3.3); which one a frame gets."""
