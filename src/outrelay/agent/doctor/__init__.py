"""``outrelay-agent doctor``: why an agent cannot connect from here, and what to do about it.

``findings`` says what a finding is and how it reads; ``local``, ``relays``, ``nat`` and ``opens``
make them, each by trying the very thing; ``app`` runs them all and decides the exit code.
"""
