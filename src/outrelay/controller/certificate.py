"""What the TLS listener proves who it is with, also after that was renewed on disk.

gRPC asks for it before each handshake, from threads of its own: a new one counts from the next
handshake on, and calls that run do not notice.

Source: control-plane.md, "Who may do what"; docs/decisions/0028-the-controllers-certificate.md.
"""

from __future__ import annotations

from collections import deque
from typing import Never

import grpc

from outrelay.controller.options import TlsIdentity, read_identity
from outrelay.lib.identity.certs import Credentials
from outrelay.lib.identity.uri import Identity
from outrelay.lib.identity.verify import Usage
from outrelay.lib.renewal import Renewal


class Certificate:
    """The certificate that is shown to callers.

    Args:
        identity: What the files held when we started. Whom it believes stays.
    """

    def __init__(self, identity: TlsIdentity) -> None:
        self._identity = identity
        self._next: deque[grpc.ServerCertificateConfiguration] = deque(maxlen=1)
        files = identity.files
        self._renewal = Renewal(
            identity.credentials,
            lambda: read_identity(files).credentials,
            cert=files.cert,
            key=files.key,
            ca=files.ca,
            usage=Usage.SERVER,
            show=self._show,
        )

    @property
    def identity(self) -> Identity:
        """Who we are; no renewal changes that."""
        return self._identity.credentials.identity

    @property
    def expires(self) -> float:
        """When the one that is shown ends, seconds since the epoch."""
        return self._renewal.expires

    def server_credentials(self) -> grpc.ServerCredentials:
        """What a server of gRPC shows: always the newest, to callers that show one, too."""
        first = self._configuration(self._identity.credentials)
        return grpc.dynamic_ssl_server_credentials(
            first,
            self._newer,  # type: ignore[arg-type]  # the stubs do not know that None is no change
            require_client_authentication=True,
        )

    async def run(self) -> Never:
        """Follow the files, for ever."""
        await self._renewal.run()

    async def _show(self, renewed: Credentials) -> None:
        self._next.append(self._configuration(renewed))

    def _newer(self) -> grpc.ServerCertificateConfiguration | None:
        """What to show from now on; None: what is shown already."""
        try:
            return self._next.popleft()
        except IndexError:
            return None

    def _configuration(self, shown: Credentials) -> grpc.ServerCertificateConfiguration:
        pair = (shown.private_key_pem, shown.certificate_pem)
        return grpc.ssl_server_certificate_configuration([pair], self._identity.trust.pem)
