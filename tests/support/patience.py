"""How long tests wait for what must happen: whoever waits so long waits for what never comes.

It says nothing of how fast anything is. Tests run beside others, under coverage, on machines ten
times slower than the one they were written on; what takes how long, ``make bench`` measures.
"""

from __future__ import annotations

PATIENCE = 30.0
"""Seconds."""
