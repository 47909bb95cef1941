"""The tcp carrier: yamux inside TLS 1.3 on TCP, for networks that block UDP.

    listener.py, dialer.py    Listener and Dialer of the carrier port
      connections.py          what one of them looks after
      opening.py, proxy.py    from a new socket to a peer that is known
    connection.py             Connection and Stream of the carrier port
      yamux.py                the session: frames <-> streams, turns, events         (pure)
        table.py              its streams: ids, and what they cost together          (pure)
        channel.py            one of them: what waits, windows                       (pure)
        endings.py            how a stream's early end is told                       (pure)
        pulse.py              pings: life, round trips, receipts                     (pure)
        yamux_parser.py       bytes -> frames                                        (pure)
        yamux_frames.py       headers, and notes between our own peers               (pure)
      link.py                 plaintext <-> socket
        tls.py                mutual TLS over memory buffers
        sockets.py            options of sockets

Source: protocol.md sections 1 and 9.
"""
