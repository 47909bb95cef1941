"""What the relays carry right now, and a word with them."""
