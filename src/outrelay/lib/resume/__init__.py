"""What lets a stream outlive its connection: positions, unacknowledged bytes, checkpoints.

``ring`` holds bytes until the far application has taken them; ``state`` is one stream's
account at one agent. Both are pure: time is an argument, nothing here waits.

Source: protocol.md section 6.
"""
