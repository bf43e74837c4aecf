"""The server's certificate, its key, and who may sign those of clients."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Certificate:
    """As PEM for gRPC, and as a context for HTTP.

    With `client_ca`, gRPC wants a certificate of each client; over HTTP one may be given, which
    is checked then.
    """

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    context: ssl.SSLContext


def read_certificate(chain: Path, key: Path, client_ca: Path | None) -> Certificate:
    """What the files hold. `ValueError`: the end of the sentence "it must be ..."."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # The empty password has a key that needs one refused, and not asked for on the terminal.
        context.load_cert_chain(chain, key, password="")
        if client_ca:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
        roots = client_ca.read_bytes() if client_ca else None
        return Certificate(chain.read_bytes(), key.read_bytes(), roots, context)
    except ssl.SSLError as error:
        why = (error.reason or "no PEM").lower().replace("_", " ")
    except OSError as error:
        why = error.strerror or str(error)
    raise ValueError(
        "a certificate in PEM that fits the key in TIDEGATE_TLS_KEY_FILE, which has no password,"
        f" and any TIDEGATE_TLS_CLIENT_CA_FILE must be PEM, too ({why})"
    )
