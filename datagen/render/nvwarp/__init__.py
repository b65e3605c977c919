"""The NVIDIA Warp backend: the same kernels for CUDA and, in tests, for the CPU."""
