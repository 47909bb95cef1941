"""Where agents are served: their connections, control streams and the streams they open.

Words: a *session* is an agent's connection from HELLO to its end; the *roster* holds them
all. Its *control stream* takes frames through the session's *outbox*. A *pair* is a stream
that is being opened or is spliced: two legs, one session each.
"""
