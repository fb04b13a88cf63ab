"""Ed25519 over the index's text, by the package `cryptography` (the extra `xenpv[sign]`); keys are PEM files.

RULES

- What is covered is fixed here and in wire/bundle.py: all of the text before the signature, and so every name, size,
  place, SHA-256 and the command line. Nothing in the bundle can change that.
- No key, no package, no signature or a wrong one: never "good".
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from xenpv.errors import BundleError, UsageError
from xenpv.wire.bundle import Reason, signed_part

__all__ = ["Checker", "Signer", "load_checker", "load_signer"]

Signer = Callable[[bytes], bytes]
"""Gives the signature of what it is given."""
Checker = Callable[[bytes], None]
"""Raises BundleError (``unsigned``, ``signature``) unless the owner of its key has signed this text of an index."""

_MISSING = ("signatures need the Python package cryptography: `pip install 'xenpv[sign]'` or "
            "`apt-get install python3-cryptography`")


def load_signer(path: str) -> Signer:
    """What signs with the private key in the PEM file `path`. Raises UsageError."""
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as error:
        raise UsageError(_MISSING) from error
    try:
        key = load_pem_private_key(_content(path), None)
    except (ValueError, TypeError) as error:  # no PEM; a passphrase is wanted
        raise UsageError(f"{path} is no private key without passphrase in PEM: "
                         "`openssl genpkey -algorithm ed25519` makes one") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path} is a key of another kind: `openssl genpkey -algorithm ed25519` makes one")
    return key.sign


def load_checker(path: str) -> Checker:
    """What checks signatures with the public key in the PEM file `path`. Raises UsageError."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as error:
        raise UsageError(_MISSING) from error
    try:
        key = load_pem_public_key(_content(path))
    except ValueError as error:
        raise UsageError(f"{path} is no public key in PEM: `openssl pkey -in KEY -pubout` makes one") from error
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"{path} is a key of another kind: Ed25519 is wanted")
    public = key

    def check(text: bytes) -> None:
        found = signed_part(text)
        if found is None:
            raise BundleError("the index is not signed", Reason.UNSIGNED)
        covered, signature = found
        try:
            public.verify(signature, covered)
        except InvalidSignature as error:
            raise BundleError("the index's signature is not by this key, or not for this index",
                              Reason.SIGNATURE) from error

    return check


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
