"""Rules without input or output: time, randomness and ids are arguments."""
