"""The benchmark suite: what OutRelay costs, beside direct TCP in the same run."""
