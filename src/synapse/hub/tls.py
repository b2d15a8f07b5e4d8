"""TLS for the port: a certificate, its key, and nothing older than TLS 1.2."""

import ssl
from pathlib import Path

from synapse.hub.settings import SettingsRefused


def server_context(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """What the port speaks TLS with; None without a certificate. Raises `SettingsRefused` when the files do not fit."""
    if cert is None or key is None:
        return None
    for path in (cert, key):
        try:
            path.read_bytes()
        except OSError as error:
            raise SettingsRefused(f"{path}: cannot be read ({error.strerror}); set tls_cert and tls_key") from error
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key, password=lambda: "")  # a key under a password is refused, and not asked for
    except (ssl.SSLError, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise SettingsRefused(
            f"{cert} and {key}: no certificate chain with its key in PEM, without a password ({why})"
        ) from error
    return context
