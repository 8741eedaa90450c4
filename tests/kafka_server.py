"""A real Apache Kafka for the tests, from wherever one can be had.

In this order: the address in RECALL_TEST_BOOTSTRAP, whose topics of the worker's names the tests drop, and which has
to allow sessions of 3 s (group.min.session.timeout.ms); a container, where a Docker engine answers; the same
version from Maven Central on a JDK, kept in the user's cache. The last two are one node in KRaft mode.

A secured one, with TLS, SCRAM and an authorizer, comes from Maven alone: the address is somebody's own, and the image
takes no keys in PEM.
"""

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import SystemRandom
from signal import SIGKILL

import trustme
from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from docker.errors import DockerException
from testcontainers.core.container import DockerContainer

from worker.topics import Grant

KAFKA_VERSION = "4.1.1"
IMAGE = f"apache/kafka:{KAFKA_VERSION}"
JAVA_NEEDED = 17
START_TIMEOUT_S = 60.0
FETCH_TIMEOUT_S = 300.0
LOG_TAIL_LINES = 30
PORTS = (15_000, 30_000)
"""Below those that the system gives to clients."""
IMPATIENT = {"group.min.session.timeout.ms": "1000"}
"""Tests wait for the session of a killed worker to end: it may be shorter than Kafka allows by itself."""
BRIEF = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""Options of Java for a broker that lives too short for the second compiler to pay: it starts with half the CPU."""

POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>recall.tests</groupId><artifactId>kafka</artifactId><version>{KAFKA_VERSION}</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"""


class KafkaUnavailableError(Exception):
    """No way to a Kafka on this machine; the message names each one and what it lacks."""


@dataclass(frozen=True, kw_only=True)
class Kafka:
    """A running cluster; `bootstrap` is its `host:port`."""

    bootstrap: str
    stop: Callable[[], None]
    restart: Callable[[], None] | None = None
    """Kills the broker (-9) and starts it again on its data and port; None where the broker is not ours to kill."""

    def create_topics(self, topics: dict[str, int], config: dict[str, str] | None = None) -> None:
        """Create the topics, given with their numbers of partitions, and wait until clients see them."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        created = admin.create_topics([NewTopic(name, n, 1, config=config or {}) for name, n in topics.items()])
        for future in created.values():
            future.result()
        _await_answer(self.bootstrap, lambda seen: topics.items() <= seen.items(), lambda: f"topics {topics}")

    def drop_topics(self, names: Iterable[str]) -> None:
        """Drop those of the topics that are there, and wait until clients see them no more."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        there = set(names) & admin.list_topics(timeout=30).topics.keys()
        for future in admin.delete_topics(list(there)).values() if there else ():
            future.result()
        _await_answer(self.bootstrap, there.isdisjoint, lambda: f"topics {there} gone")

    @staticmethod
    def prefix(name: str) -> str:
        """Make a prefix for the names of one test's topics and groups: the cluster is shared."""
        return f"{name}-{uuid.uuid4().hex[:8]}-"


@dataclass(frozen=True, kw_only=True)
class SecuredKafka(Kafka):
    """A cluster that lets nobody do what was not allowed; `bootstrap` is the open way of its operators.

    `sasl` (SASL_SSL, SCRAM) and `tls` (SSL, with a client's certificate) are the ways of everybody else.
    """

    sasl: str
    tls: str
    cafile: Path
    certfile: Path
    keyfile: Path
    principal = "User:recall-client"
    """Who the holder of the certificate is."""

    def set_config(self, topic: str, name: str, value: str) -> None:
        """Set an option of a topic."""
        entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        admin = self._admin()  # its answers go with it
        for future in admin.incremental_alter_configs([resource]).values():
            future.result()

    def add_user(self, name: str, password: str) -> None:
        """Make a SCRAM user."""
        credential = UserScramCredentialUpsertion(
            name, ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), password.encode()
        )
        admin = self._admin()  # its answers go with it
        for future in admin.alter_user_scram_credentials([credential]).values():
            future.result()

    def allow(self, user: str, grants: Iterable[Grant]) -> None:
        """Allow a user what `topics.grants` returns."""
        wanted = [
            AclBinding(
                ResourceType[grant.kind.upper()],
                grant.name,
                ResourcePatternType.PREFIXED if grant.prefix else ResourcePatternType.LITERAL,
                user,
                "*",
                AclOperation[operation.upper()],
                AclPermissionType.ALLOW,
            )
            for grant in grants
            for operation in grant.operations
        ]
        admin = self._admin()  # its answers go with it
        for future in admin.create_acls(wanted).values():
            future.result()

    def forbid(self, user: str) -> None:
        """Take back all that a user was allowed."""
        everything = AclBindingFilter(
            ResourceType.ANY, None, ResourcePatternType.ANY, user, None, AclOperation.ANY, AclPermissionType.ANY
        )
        admin = self._admin()  # its answers go with it
        for future in admin.delete_acls([everything]).values():
            future.result()

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 2})


@contextmanager
def real_kafka(java_options: tuple[str, ...] = ()) -> Iterator[Kafka]:
    """Give a cluster from the first source that has one, and stop it at the end if it was started here.

    The options are for Java, where the cluster comes from Maven.
    """
    if bootstrap := os.environ.get("RECALL_TEST_BOOTSTRAP"):
        _await_answer(bootstrap, lambda _: True, lambda: f"RECALL_TEST_BOOTSTRAP={bootstrap}")
        yield Kafka(bootstrap=bootstrap, stop=lambda: None)
        return
    lacking = ["RECALL_TEST_BOOTSTRAP is not set"]
    for start in (_from_docker, partial(_from_maven, java_options)):
        try:
            kafka = start()
        except KafkaUnavailableError as reason:
            lacking.append(str(reason))
            continue
        try:
            yield kafka
        finally:
            kafka.stop()
        return
    raise KafkaUnavailableError("; ".join(lacking))


@contextmanager
def secured_kafka() -> Iterator[SecuredKafka]:
    """Give a secured cluster with keys and certificates of its own making."""
    with tempfile.TemporaryDirectory(prefix="recall-keys-") as name:
        keys = Path(name)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(keys / "ca.pem")
        server = authority.issue_cert("127.0.0.1")
        (keys / "server.pem").write_bytes(_pkcs8(server) + _chain(server))
        client = authority.issue_cert("client.recall.test", common_name="recall-client")
        (keys / "client.pem").write_bytes(_chain(client))
        (keys / "client.key").write_bytes(_pkcs8(client))
        sasl, tls = _free_ports(2)
        kafka = _from_maven(BRIEF, _security(keys, sasl, tls))
        try:
            yield SecuredKafka(
                bootstrap=kafka.bootstrap,
                stop=kafka.stop,
                sasl=f"127.0.0.1:{sasl}",
                tls=f"127.0.0.1:{tls}",
                cafile=keys / "ca.pem",
                certfile=keys / "client.pem",
                keyfile=keys / "client.key",
            )
        finally:
            kafka.stop()


def _security(keys: Path, sasl: int, tls: int) -> Callable[[dict[str, str]], dict[str, str]]:
    """Give what makes the properties of an open broker those of a secured one."""
    stores = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keys / "server.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(keys / "ca.pem"),
    }

    def secured(opened: dict[str, str]) -> dict[str, str]:
        ways = f",SASL_SSL://127.0.0.1:{sasl},SSL://127.0.0.1:{tls}"
        return (
            opened
            | stores
            | {
                "listeners": opened["listeners"] + ways,
                "advertised.listeners": opened["advertised.listeners"] + ways,
                "listener.security.protocol.map": opened["listener.security.protocol.map"]
                + ",SASL_SSL:SASL_SSL,SSL:SSL",
                "sasl.enabled.mechanisms": "SCRAM-SHA-512",
                "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram"
                ".ScramLoginModule required;",
                "listener.name.ssl.ssl.client.auth": "required",
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "ssl.principal.mapping.rules": "RULE:^CN=([^,]*).*$/$1/",
                "super.users": "User:ANONYMOUS",  # whoever comes by the open listener
            }
        )

    return secured


def _pkcs8(certificate: trustme.LeafCert) -> bytes:
    """Give the key in the only form that Kafka reads."""
    key = load_pem_private_key(certificate.private_key_pem.bytes(), password=None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _chain(certificate: trustme.LeafCert) -> bytes:
    return b"".join(pem.bytes() for pem in certificate.cert_chain_pems)


def server_properties(bind: str, host: str, port: int, controller_port: int) -> dict[str, str]:
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "listeners": f"PLAINTEXT://{bind}:{port},CONTROLLER://{bind}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{host}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        "auto.create.topics.enable": "false",
    }


# Unverified: written where no Docker engine ran.
def _from_docker() -> Kafka:
    # The command line, since the Python client leaves a socket open where no engine answers.
    try:
        subprocess.run(["docker", "version"], check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError) as error:
        raise KafkaUnavailableError(f"no Docker engine answers ({error})") from error
    container = DockerContainer(IMAGE)
    host = container.get_docker_client().host()
    port, controller_port = _free_ports(2)
    # The image formats its storage without --standalone: it wants the voters named.
    properties = server_properties("", host, port, controller_port) | {
        **IMPATIENT,
        "controller.quorum.voters": f"1@localhost:{controller_port}",
    }
    for name, value in properties.items():
        container.with_env("KAFKA_" + name.upper().replace(".", "_"), value)
    container.with_bind_ports(port, port)
    try:
        container.start()
    except DockerException as error:
        container.stop()
        raise KafkaUnavailableError(f"Docker did not start {IMAGE} ({error})") from error
    bootstrap = f"{host}:{port}"
    try:
        _await_answer(bootstrap, lambda _: True, lambda: b"\n".join(container.get_logs()).decode())
    except BaseException:
        container.stop()
        raise
    return Kafka(bootstrap=bootstrap, stop=container.stop)


def _from_maven(
    java_options: tuple[str, ...], change: Callable[[dict[str, str]], dict[str, str]] = lambda properties: properties
) -> Kafka:
    java = _java()
    libraries = _libraries()
    directory = Path(tempfile.mkdtemp(prefix="recall-kafka-"))
    port, controller_port = _free_ports(2)
    configuration, log = directory / "server.properties", directory / "server.log"
    properties = server_properties("127.0.0.1", "127.0.0.1", port, controller_port) | {
        **IMPATIENT,
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller_port}",
        "log.dirs": str(directory / "data"),
    }
    configuration.write_text("".join(f"{name}={value}\n" for name, value in change(properties).items()))
    launch = [java, "-Xmx768m", *java_options, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{libraries}/*"]
    cluster_id = "cmVjYWxsLXRlc3RzLTAwMQ"  # 16 bytes in base64, any will do
    format_storage = [
        *launch, "kafka.tools.StorageTool", "format", "--standalone", "-t", cluster_id, "-c", str(configuration)
    ]  # fmt: skip
    with log.open("wb") as output:
        subprocess.run(format_storage, check=False, stdout=output, stderr=output)

    def launch_server() -> subprocess.Popen[bytes]:
        # The server ends with the tests, killed ones too: then the pipe to its guard closes.
        guarded = 'exec 3<&0; { cat <&3 >/dev/null; kill -9 $$; } & exec "$@"'
        with log.open("ab") as output:
            return subprocess.Popen(
                ["sh", "-c", guarded, "sh", *launch, "kafka.Kafka", str(configuration)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    bootstrap = f"127.0.0.1:{port}"
    server = launch_server()

    def kill() -> None:
        # The guard stands in the server's group: it must go first, or it would kill a stranger by this number.
        with suppress(ProcessLookupError):
            os.killpg(server.pid, SIGKILL)
        server.communicate()

    def await_server() -> None:
        _await_answer(bootstrap, lambda _: True, log.read_text, alive=lambda: server.poll() is None)

    def restart() -> None:
        nonlocal server
        kill()
        server = launch_server()
        await_server()

    def stop() -> None:
        kill()
        shutil.rmtree(directory, ignore_errors=True)

    try:
        await_server()
    except BaseException:
        stop()
        raise
    return Kafka(bootstrap=bootstrap, stop=stop, restart=restart)


def _await_answer(
    bootstrap: str,
    satisfied: Callable[[dict[str, int]], bool],
    evidence: Callable[[], str],
    alive: Callable[[], bool] = lambda: True,
) -> None:
    """Ask for the topics and their numbers of partitions until the answer is the one waited for."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and alive():
        with suppress(KafkaException):
            topics = admin.list_topics(timeout=2).topics
            if satisfied({name: len(topic.partitions) for name, topic in topics.items()}):
                return
        time.sleep(0.1)
    tail = "\n".join(evidence().splitlines()[-LOG_TAIL_LINES:])
    raise RuntimeError(f"Kafka at {bootstrap} did not answer as expected:\n{tail}")


def _free_ports(count: int) -> list[int]:
    """Find ports that no client is given by chance before the broker has them, or while it is away."""
    found: list[int] = []
    while len(found) < count:
        port = SystemRandom().randrange(*PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
    return found


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    java = f"{home}/bin/java" if home else "java"
    try:
        banner = subprocess.run([java, "-version"], check=True, capture_output=True, text=True).stderr
    except (OSError, subprocess.CalledProcessError) as error:
        raise KafkaUnavailableError(f"no JDK {JAVA_NEEDED} ({error})") from error
    version = re.search(r'version "(\d+)', banner)
    if not version or int(version[1]) < JAVA_NEEDED:
        raise KafkaUnavailableError(f"no JDK {JAVA_NEEDED} or later (found: {banner.splitlines()[0]})")
    return java


def _libraries() -> Path:
    """Fetch Kafka's jars once; of several runs that fetch at the same time, the first to finish stays."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recall"
    kept = cache / f"kafka-{KAFKA_VERSION}"
    if kept.is_dir():
        return kept
    if not shutil.which("mvn"):
        raise KafkaUnavailableError("no Maven (mvn) to fetch Kafka with")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        directory = Path(temporary)
        (directory / "pom.xml").write_text(POM)
        fetch = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"]
        try:
            subprocess.run(
                [*fetch, f"-DoutputDirectory={directory / 'jars'}"],
                check=True,
                capture_output=True,
                text=True,
                cwd=directory,
                timeout=FETCH_TIMEOUT_S,
            )
        except subprocess.CalledProcessError as error:
            raise KafkaUnavailableError(f"Maven did not fetch Kafka {KAFKA_VERSION}: {error.stdout}") from error
        except subprocess.TimeoutExpired as error:
            raise KafkaUnavailableError(f"Maven did not fetch Kafka {KAFKA_VERSION}: {error}") from error
        try:
            (directory / "jars").rename(kept)
        except OSError:
            if not kept.is_dir():  # else another run was first
                raise
    return kept
