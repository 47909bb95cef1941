"""Streams that outlive their connection: an application sees a pause, and then its bytes.

``leg`` is what carries such a stream now, and how it gets the next one; ``bridge`` joins it with
the application's socket.
"""
