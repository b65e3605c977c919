"""What is done with finished datasets: verify, statistics, merge and cut, publish, provenance."""
