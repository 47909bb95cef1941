"""Policy: the rules, and telling relays of them."""
