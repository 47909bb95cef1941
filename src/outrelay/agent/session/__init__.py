"""The agent's relation to its relay: one session at a time, renewed whenever it is lost."""
