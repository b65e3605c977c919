"""One run on disk and on screen: its folder, state, log, checkpoints, throughput, signals."""
