"""Evidence: files with hashes and sidecars, and a hash of the code that made them."""

from npu_parity.evidence.files import (
    find,
    problem,
    read_array,
    read_bytes,
    read_inputs,
    read_json,
    read_table,
    verify,
    versions,
    write,
    write_array,
    write_json,
    write_sidecar,
    write_text,
)
from npu_parity.evidence.manifest import sha256

__all__ = [
    "find",
    "problem",
    "read_array",
    "read_bytes",
    "read_inputs",
    "read_json",
    "read_table",
    "sha256",
    "verify",
    "versions",
    "write",
    "write_array",
    "write_json",
    "write_sidecar",
    "write_text",
]
