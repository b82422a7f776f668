//! What surrounds a training loop: run directory, events, progress, interrupts.
