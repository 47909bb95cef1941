"""Policy at the relay: rules held in memory, and the questions asked of them."""
