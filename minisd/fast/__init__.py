"""The same results in less time or memory. You do not need this package to understand the networks."""
