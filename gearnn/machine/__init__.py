"""What a network needs of the machine: device and precision, random numbers, slots, copies in memory."""
