"""What a client checks a hub's certificate against: the system's CAs, or those of a file. Never nothing."""

import ssl

from synapse.client.home import Surroundings
from synapse.home import HomeRefused


def client_context(around: Surroundings) -> ssl.SSLContext:
    """Certificates and host names are verified; only against the file, where `tls_ca` names one.

    Raises `HomeRefused` for a file without certificates.
    """
    path = around.get("tls_ca")
    try:
        context = ssl.create_default_context(cafile=path)
    except OSError as error:  # an SSLError is one
        why = getattr(error, "reason", None) or error.strerror or error
        raise HomeRefused(f"{path}: no certificates of a CA in PEM ({why}); name another with --tls-ca") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def distrust(error: OSError) -> str:
    """Why a connection failed; for a certificate that does not hold, with what helps."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted: {error.verify_message}; --tls-ca names the file of a CA of your own, and "
            "the certificate must be for the name in the URI"
        )
    if isinstance(error, ssl.SSLError):
        return f"no TLS there ({error.reason or error})"
    return error.strerror or str(error) or "no answer"
