"""An agent that does not offer ``resume/2``: what the cost of outliving relays is measured by.

    python -m outrelay.tools.bench.without_resume --relay ...

It is the agent in everything else.
"""

from __future__ import annotations

from outrelay.agent import command
from outrelay.agent.session import greeting


def main() -> None:
    """Run the agent."""
    greeting.CAPABILITIES = tuple(each for each in greeting.CAPABILITIES if each != greeting.RESUME)
    command.main()


if __name__ == "__main__":
    main()
