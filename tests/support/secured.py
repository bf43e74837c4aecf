"""A server that lets nobody in without a certificate and a token, and what opens it."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import grpc
import trustme

from tests.support.servers import Server

ALL_ROLES = ("producer", "subscriber", "admin")


@dataclass(frozen=True)
class Token:
    """A token as its holder has it, and the entry that the server has."""

    value: str
    roles: tuple[str, ...] = ALL_ROLES
    instances: tuple[str, ...] = ("*",)

    @property
    def entry(self) -> str:
        fields = {
            "name": "test",
            "sha256": hashlib.sha256(self.value.encode()).hexdigest(),
            "roles": self.roles,
            "instances": self.instances,
        }
        return "[[token]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in fields.items())

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.value}"),)


class Papers:
    """Certificates and a file of tokens in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self.tokens = folder / "tokens.toml"
        self.chain, self.key = folder / "server.pem", folder / "server.key"
        self._authority.cert_pem.write_to_path(str(self.ca))
        self.issue("server", "127.0.0.1", "localhost")
        self.issue("client", "client@example")
        self.issue("stranger", "stranger@example", authority=trustme.CA())

    def issue(self, name: str, *identities: str, authority: trustme.CA | None = None) -> bytes:
        """A new certificate in the place of the old one, in one step for each file."""
        made = (authority or self._authority).issue_cert(*identities)
        chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
        _replace(self.folder / f"{name}.pem", chain)
        _replace(self.folder / f"{name}.key", made.private_key_pem.bytes())
        return made.cert_chain_pems[0].bytes()

    def admit(self, *tokens: Token) -> None:
        """Have the file hold these tokens and no others."""
        _replace(self.tokens, "\n".join(token.entry for token in tokens).encode())

    def credentials(self, name: str | None = "client") -> grpc.ChannelCredentials:
        """What a client with this certificate connects with."""
        pair = [(self.folder / f"{name}.{end}").read_bytes() for end in ("key", "pem") if name]
        return grpc.ssl_channel_credentials(self.ca.read_bytes(), *pair)

    def settings(self, *, client_ca: bool = True) -> dict[str, str]:
        """A server's settings that name the files."""
        ca = {"tls_client_ca_file": str(self.ca)} if client_ca else {}
        return ca | {
            "tls_cert_file": str(self.chain),
            "tls_key_file": str(self.key),
            "tokens_file": str(self.tokens),
        }


def _replace(file: Path, content: bytes) -> None:
    """As an operator does who knows that the file is read meanwhile."""
    temporary = file.with_suffix(".new")
    temporary.write_bytes(content)
    os.replace(temporary, file)  # noqa: PTH105 - the name says it


class SecuredServer(Server):
    """A server on a port with TLS, and on a unix socket in `directory` without."""

    def __init__(self, directory: Path, papers: Papers, *, client_ca: bool = True, **settings: str):
        self.socket = f"unix:{directory}/gate.sock"
        listen = {"listen": f"127.0.0.1:0,{self.socket}", "http_listen": "127.0.0.1:0"}
        super().__init__(directory, **listen, **papers.settings(client_ca=client_ca), **settings)

    @property
    def target(self) -> str:
        """The port, once the server serves."""
        return self.said("serving")["listen"].partition(",")[0]

    @property
    def http(self) -> str:
        return super().http.replace("http:", "https:")

    async def health(self, service: str = "") -> str:
        """By the socket, with no token: probes have none."""
        return await Server(self.dir, listen=self.socket).health(service)
