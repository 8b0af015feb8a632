"""Evidence: files with hashes and sidecars, and a hash of the code that made them."""

from npu_parity.evidence.files import (
    find,
    read_array,
    read_inputs,
    read_json,
    sha256,
    verify,
    versions,
    write,
    write_array,
    write_json,
    write_sidecar,
    write_text,
)

__all__ = [
    "find",
    "read_array",
    "read_inputs",
    "read_json",
    "sha256",
    "verify",
    "versions",
    "write",
    "write_array",
    "write_json",
    "write_sidecar",
    "write_text",
]
