"""The Admin rpcs: the controller's own process.

Source: api/control/v1/admin.proto.
"""

from __future__ import annotations

from outrelay.controller.authz import Context, current_caller
from outrelay.controller.fields import invalid
from outrelay.lib.control.v1 import admin_pb2 as pb
from outrelay.lib.control.v1.admin_pb2_grpc import AdminServicer
from outrelay.lib.observe import logs


class AdminService(AdminServicer):
    """Admin over this process."""

    async def SetLogLevel(
        self, request: pb.SetLogLevelRequest, _context: Context
    ) -> pb.SetLogLevelResponse:
        """Log from now on what is at least of this level."""
        before = logs.level()
        if request.level and request.level not in logs.LEVELS:
            raise invalid("level", f"must be one of {', '.join(logs.LEVELS)}")
        if request.level:
            logs.change_level(request.level, by=current_caller().name)
        return pb.SetLogLevelResponse(level=logs.level(), before=before)
