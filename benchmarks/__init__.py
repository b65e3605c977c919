"""What the product reaches, beside its peers, in one run: `python -m benchmarks`."""
