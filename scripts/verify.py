"""Compute every hash and every verdict again; fail if a file was changed or a run fails."""

from npu_parity import cli
from npu_parity.__main__ import verify

if __name__ == "__main__":
    cli.run(verify)
