"""NAF updates as one compiled C++ function: the fastest there is on a CPU."""
