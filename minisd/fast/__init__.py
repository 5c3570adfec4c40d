"""The same numbers in less time, beside the plain formulas of the networks: nothing here has to be read to understand them."""
