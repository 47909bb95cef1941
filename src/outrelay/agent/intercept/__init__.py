"""Ways an application's connections reach the agent."""
