"""The tcp carrier: yamux inside TLS 1.3 on TCP, for networks that block UDP.

    bytes of an application
      connection.py     Connection and Stream of the carrier port; the pump that joins the rest
      yamux.py          the session: frames <-> streams, their ends, pings    (pure)
      channel.py        one stream of it: what waits, windows                 (pure)
      yamux_frames.py   the 12-byte header, and notes between our own peers   (pure)
      tls.py            mutual TLS over memory buffers
    a TCP socket

Source: protocol.md sections 1 and 9.
"""
