"""``outrelay-agent status``: what the agent that runs on this host is connected with.

``asking`` gets what its debug listener shows, ``report`` tells it to people, ``command`` is the
command.
"""
