"""The parts of a simulated capture: surface, motion, cameras, scanner, registration error."""
