"""The engines that are compared: how each is installed, started, and what it promises.

A peer whose packages are not ours gets an environment of its own in the user's cache, so that ours stays clean; the
JVM's are built there by Maven.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from events import PARTITIONS

PEERS = Path(__file__).parent / "peers"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recall" / "peers"
JAVA = ("java", "-Xmx1g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
FLINK_OPENS = ("java.lang", "java.util", "java.util.concurrent")
INSTALL_TIMEOUT_S = 300.0
ROWS = "{app_id}-rows-changelog"


class NotInstalledError(Exception):
    """A peer that cannot be had on this machine; the message says why."""


class Engine(NamedTuple):
    """A peer; its arguments are those of `peers/common.py`, and `options`."""

    name: str
    title: str
    durable: str
    script: str
    """Python, or a folder with Java and a pom."""
    options: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    """Of an environment of its own."""
    java: tuple[str, ...] | None = None
    """Options of the virtual machine."""
    commits: bool = True
    """Whether its offsets in the group tell that all is durable. With ours a result is visible when all is."""
    every_result: bool = True
    """Whether each result comes exactly once where nothing fails."""
    topics: tuple[str, ...] = ()
    """Compacted ones that are to be there for its state; the others make theirs."""
    recovers: bool = True
    share: float = 1.0
    """Of the events, what it gets."""

    def install(self):
        """Return the command that starts it, without its arguments.

        Raises:
            NotInstalledError: if it cannot be had here.

        """
        if self.java is not None:
            classes = kept(_hash(*sorted((PEERS / self.script).iterdir())), self._build)
            path = f"{classes}/classes:{classes}/jars/*"
            return [*JAVA, *self.java, "-cp", path, "Aggregate"]
        if self.packages:
            packages = (*self.packages, *(f"{name}=={version(name)}" for name in ("orjson",)))
            python = kept("-".join(packages), lambda place: _environment(place, packages)) / "bin" / "python"
        else:
            python = sys.executable
        return [str(python), str(PEERS / self.script)]

    def _build(self, place):
        if not shutil.which("mvn"):
            raise NotInstalledError("no Maven (mvn)")
        maven = ["mvn", "-q", "-B", "-f", str(PEERS / self.script), f"-Dtarget={place}"]
        copy = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={place}/jars"]
        _call([*maven, "compile", *copy])


def kept(name, make):
    """Return a folder of the cache, which `make` fills where it is not there yet."""
    place = CACHE / name
    if not place.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        place.mkdir()
        try:
            make(place)
        except BaseException:
            shutil.rmtree(place)
            raise
    return place


def _environment(place, packages):
    _call([sys.executable, "-m", "venv", str(place)])
    _call([str(place / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *packages])


def _call(command):
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)  # noqa: S603
    except subprocess.CalledProcessError as error:
        raise NotInstalledError((error.stdout + error.stderr)[-500:]) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalledError(str(error)) from error


def _hash(*files):
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


ENGINES = (
    Engine(
        "ours",
        "Recall's stream, transactional",
        "Kafka, exactly once",
        "ours.py",
        ("transactional", str(PARTITIONS)),
        topics=(ROWS, "{app_id}-probe"),
        commits=False,
    ),
    Engine(
        "plain",
        "Recall's stream, plain",
        "Kafka, state exactly once",
        "ours.py",
        ("plain", str(PARTITIONS)),
        topics=(ROWS,),
    ),
    Engine("bare", "aiokafka loop, nothing else", "Kafka, at least once", "bare.py", topics=(ROWS,)),
    Engine(
        "faust",
        f"faust-streaming {version('faust-streaming')}",
        "Kafka, at least once",
        "stock_faust.py",
        share=0.1,
    ),
    Engine(
        "quix",
        "Quix Streams 3.28.1",
        "RocksDB and Kafka, exactly once",
        "quix.py",
        packages=("quixstreams==3.28.1",),
        topics=("changelog__{app_id}--{source}--default",),
    ),
    Engine(
        "bytewax",
        "Bytewax 0.21.1",
        "SQLite, at least once",
        "bytewax_flow.py",
        packages=("bytewax==0.21.1", "confluent-kafka==2.12.2"),
        commits=False,
    ),
    Engine(
        "pathway",
        "Pathway 0.33.0",
        "none",
        "pathway_table.py",
        packages=("pathway==0.33.0",),
        commits=False,
        every_result=False,
        recovers=False,
    ),
    Engine("kafka-streams", "Kafka Streams 4.1.1", "RocksDB and Kafka, exactly once", "kafka_streams", java=()),
    Engine(
        "flink",
        "Flink 2.0.1",
        "checkpoints in files, exactly once",
        "flink",
        recovers=False,
        java=tuple(f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in FLINK_OPENS),
    ),
)
BY_NAME = {engine.name: engine for engine in ENGINES}


def install(names):
    """Return the commands of the engines of these names that can be had here, and of the others why not."""
    commands, missing = {}, {}
    for name in names:
        try:
            commands[name] = BY_NAME[name].install()
        except NotInstalledError as error:
            missing[name] = str(error)
    return commands, missing
