"""``correlate``: the log lines of agents, relays and controllers, put together by stream.

    files --reading--> lines --line--> entries --sorting--> groups --outputs--> what is shown
                                          |
                                          +--> skew: how far the files' clocks are apart

Words: an *entry* is a log line with both ``stream_id`` and ``ts_unix_ms``; a *group* is all
entries of one stream, in order of time; a *speaker* is a program in a file (one file may hold
the lines of several); a *story* is what a group says of its stream.

Invariant: memory stays bounded however long the files, lines and groups are.

Source: commands.md, "correlate"; docs/operations/correlate.md.
"""
