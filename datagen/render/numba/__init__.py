"""The CPU default: exact coverage, edges and maps compiled by numba."""
