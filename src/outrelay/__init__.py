"""OutRelay connects services across networks that allow no inbound port."""

import os

__version__ = "0.1.0"

# gRPC's core reads this when it is imported and would write its own lines between ours.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
