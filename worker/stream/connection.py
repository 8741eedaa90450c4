"""How the brokers are reached: one value, in the form that each client wants.

Three clients open connections: aiokafka (commits, models), librdkafka (topics, feeder, tools) and Faust (membership,
fetching; its form is `transport.faust_options`). What is set here reaches all of them, so that none is left behind in
plain text.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003 - a field's type
from typing import Any, Literal

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"]


@dataclass(frozen=True, slots=True)
class Sasl:
    """Who the client is; the password shows in no repr."""

    mechanism: SaslMechanism
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Tls:
    """Whom the client trusts (None: the system's authorities), and its own certificate. Files in PEM."""

    cafile: Path | None = None
    certfile: Path | None = None
    keyfile: Path | None = None
    check_hostname: bool = True

    def context(self) -> ssl.SSLContext:
        """Return a context with what is in the files now."""
        context = ssl.create_default_context(cafile=self.cafile)
        context.check_hostname = self.check_hostname
        if self.certfile is not None:
            context.load_cert_chain(self.certfile, self.keyfile)
        return context


@dataclass(frozen=True, slots=True)
class Connection:
    """Brokers (`host:port`, separated by commas), and how to speak to them: `sasl` None is anonymous, `tls` None open.

    >>> Connection("a:9092,b:9092", sasl=Sasl("SCRAM-SHA-512", "recall", "hidden"), tls=Tls())
    Connection(brokers='a:9092,b:9092', sasl=Sasl(mechanism='SCRAM-SHA-512', username='recall'), tls=Tls(cafile=None, \
certfile=None, keyfile=None, check_hostname=True))
    """

    brokers: str
    sasl: Sasl | None = None
    tls: Tls | None = None

    @property
    def protocol(self) -> SecurityProtocol:
        """Kafka's name for it.

        >>> Connection("a:9092", tls=Tls()).protocol
        'SSL'
        """
        if self.sasl is None:
            return "PLAINTEXT" if self.tls is None else "SSL"
        return "SASL_PLAINTEXT" if self.tls is None else "SASL_SSL"

    def aiokafka(self) -> dict[str, Any]:
        """Return the keywords of aiokafka's clients."""
        options: dict[str, Any] = {"bootstrap_servers": self.brokers, "security_protocol": self.protocol}
        if self.tls is not None:
            options["ssl_context"] = self.tls.context()
        if self.sasl is not None:
            options |= {
                "sasl_mechanism": self.sasl.mechanism,
                "sasl_plain_username": self.sasl.username,
                "sasl_plain_password": self.sasl.password,
            }
        return options

    def librdkafka(self) -> dict[str, Any]:
        """Return the configuration of librdkafka's clients, which print nothing: what fails is raised.

        >>> Connection("a:9092").librdkafka()
        {'bootstrap.servers': 'a:9092', 'security.protocol': 'PLAINTEXT', 'log_level': 2}
        """
        options: dict[str, Any] = {
            "bootstrap.servers": self.brokers,
            "security.protocol": self.protocol,
            "log_level": 2,
        }
        if self.tls is not None:
            files = {
                "ssl.ca.location": self.tls.cafile,
                "ssl.certificate.location": self.tls.certfile,
                "ssl.key.location": self.tls.keyfile,
            }
            options |= {name: str(path) for name, path in files.items() if path is not None}
            options["ssl.endpoint.identification.algorithm"] = "https" if self.tls.check_hostname else "none"
        if self.sasl is not None:
            options |= {
                "sasl.mechanism": self.sasl.mechanism,
                "sasl.username": self.sasl.username,
                "sasl.password": self.sasl.password,
            }
        return options
