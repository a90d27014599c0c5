"""fsspec's SFTP with the checks of ssh: a host whose key is not in ~/.ssh/known_hosts is refused.

Imported only for `ssh://` and `sftp://`: it needs paramiko.
"""

from __future__ import annotations

import importlib
from typing import Any

from fsspec.implementations.sftp import SFTPFileSystem


class KnownHosts(SFTPFileSystem):
    """SFTP that trusts known hosts alone. fsspec's own takes any host that answers."""

    cachable = False
    client: Any
    ftp: Any

    def _connect(self) -> None:
        paramiko: Any = importlib.import_module("paramiko")
        self.client = paramiko.SSHClient()
        self.client.load_system_host_keys()
        self.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        self.client.connect(self.host, **self.ssh_kwargs)
        self.ftp = self.client.open_sftp()
