"""Certificates for tests of TLS, made by the ``openssl`` command in a folder of the test's own."""

from __future__ import annotations

import datetime as dt
import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

DEFAULT_NAMES = ("DNS:localhost", "IP:127.0.0.1")
_LIFE = dt.timedelta(days=2)


@dataclass(frozen=True)
class Authority:
    """A folder with ``ca.pem``, and what has been signed by it."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Authority:
        """A new authority. Skips the test where there is no openssl."""
        if shutil.which("openssl") is None:
            pytest.skip("makes certificates with the openssl command, which is not here")
        authority = cls(folder)
        authority._openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=rstream tests"),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout", "ca-key.pem", "-out", "ca.pem"),
        )
        (folder / "issued").mkdir()
        (folder / "index").touch()
        (folder / "serial").write_text("01\n")
        (folder / "ca.conf").write_text(
            "[ca]\ndefault_ca = here\n"
            "[here]\ndatabase = index\nserial = serial\nnew_certs_dir = issued\ndefault_md = sha256\n"
            "unique_subject = no\npolicy = any\ncopy_extensions = copy\nx509_extensions = leaf\n"
            # What Python 3.13 asks for, which verifies strictly by default.
            "[leaf]\nsubjectKeyIdentifier = hash\nauthorityKeyIdentifier = keyid:always\n"
            "[any]\ncommonName = supplied\n"
        )
        folder.chmod(0o755)
        return authority

    def issue(
        self,
        name: str,
        common_name: str,
        *,
        alternatives: tuple[str, ...] = DEFAULT_NAMES,
        ends_in: dt.timedelta = _LIFE,
    ) -> tuple[Path, Path]:
        """A certificate and its key: ``NAME.pem`` and ``NAME-key.pem``. It has ended where ``ends_in`` is negative."""
        now = dt.datetime.now(dt.UTC)
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}-key.pem"
        extensions = ("-addext", f"subjectAltName={','.join(alternatives)}") if alternatives else ()
        self._openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={common_name}", *extensions),
            *("-keyout", key.name, "-out", f"{name}.csr"),
        )
        self._openssl(
            *("ca", "-batch", "-config", "ca.conf", "-cert", "ca.pem", "-keyfile", "ca-key.pem", "-notext"),
            *("-startdate", _stamp(now - _LIFE), "-enddate", _stamp(now + ends_in)),
            *("-in", f"{name}.csr", "-out", certificate.name),
        )
        key.chmod(0o644)  # a broker runs as another user
        return certificate, key

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    def context(self) -> ssl.SSLContext:
        """Trusts this authority alone."""
        return ssl.create_default_context(cafile=str(self.ca_file))

    def for_broker(self, **changes: object) -> Path:
        """A folder for ``scripts/rabbitmq up --tls``; ``changes`` are those of ``issue``."""
        folder = self.folder / f"broker-{len(list(self.folder.glob('broker-*')))}"
        folder.mkdir(mode=0o755)
        certificate, key = self.issue(folder.name, "localhost", **changes)  # type: ignore[arg-type]
        for source, target in ((self.ca_file, "ca.pem"), (certificate, "cert.pem"), (key, "key.pem")):
            shutil.copy(source, folder / target)
        return folder

    def _openssl(self, *arguments: str) -> None:
        done = subprocess.run(
            ["openssl", *arguments], cwd=self.folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr


def _stamp(when: dt.datetime) -> str:
    return when.strftime("%Y%m%d%H%M%SZ")
