"""The `recall` command."""

# ruff: noqa: PLC0415 - what a command needs is imported when it runs, so that the others start fast

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from worker.console import (
    accounting,
    facts,
    letter_facts,
    letters_of,
    make_console,
    make_progress,
    outcome,
    reasons,
    record_facts,
)
from worker.stream.exits import EXIT_REFUSED, EXIT_UNAVAILABLE, RefusedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.outputs import Form
    from worker.replay import Chunks
    from worker.settings import Settings
    from worker.sources import Source
    from worker.stream.processor import Output
    from worker.tally import Tally

WRONG = 2
"""Exit code where what was given cannot be used."""
LINE_MAX = 300
"""Characters that are shown of a line about what is wrong: the value in it may be a whole file."""

app = typer.Typer(
    help="Notices customers who drift away, and decides what touch is worth its cost.",
    epilog="Settings come from the environment: RECALL_BROKER, RECALL_LIVE_FROM and so on; see the README.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
topics_app = typer.Typer(help="The topics on the broker.", no_args_is_help=True)
import_app = typer.Typer(help="Bring public data sets into the form of a history.", no_args_is_help=True)
dead_letters_app = typer.Typer(
    help="Records that could not be understood or applied: counted, looked at, sent back.", no_args_is_help=True
)
app.add_typer(topics_app, name="topics")
app.add_typer(dead_letters_app, name="dead-letters")
app.add_typer(import_app, name="import")

InputFile = Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="The file to read.")]
OutputFile = Annotated[
    Path, typer.Option("--out", help="History to write: .jsonl, .jsonl.gz or .parquet.", show_default=False)
]


PlaceArgument = Annotated[str, typer.Argument(metavar="PARTITION:OFFSET", help="Where the letter lies, as listed.")]


def main() -> None:
    """Run the command line."""
    app()


@contextmanager
def plainly() -> Iterator[None]:
    """Let what is wrong with files, settings and brokers end the command with a message in place of a traceback."""
    try:
        yield
    except (ValueError, OSError, RefusedError, UnavailableError) as error:
        lines = [line if len(line) <= LINE_MAX else f"{line[:LINE_MAX]}..." for line in str(error).splitlines()]
        make_console(stderr=True).print("recall: " + "\n".join(lines), soft_wrap=True)
        codes: dict[type, int] = {RefusedError: EXIT_REFUSED, UnavailableError: EXIT_UNAVAILABLE}
        raise typer.Exit(codes.get(type(error), WRONG)) from error


@app.command()
def worker() -> None:
    """Run the worker until it is told to stop.

    It needs RECALL_BROKER and RECALL_LIVE_FROM, and the topics.
    """
    from worker import app as live
    from worker import bootstrap, settings

    with plainly():
        config = settings.load()
        bootstrap.customers(config, {})
        prepared = live.prepare(config)
    live.start(prepared)


@topics_app.command("create")
def create_topics() -> None:
    """Make the topics that are missing, and leave the others as they are."""
    from worker import settings, topics

    with plainly():
        outcomes = topics.create(settings.load())
    make_console().print(
        facts(
            (plan.name, f"{plan.partitions} partitions, {'created' if created else 'was there'}")
            for plan, created in outcomes
        )
    )


@topics_app.command("acls")
def print_acls(
    user: Annotated[str, typer.Option(help="The worker's principal.", metavar="TYPE:NAME")] = "User:recall",
) -> None:
    """Print the commands that allow the worker's user what it needs, and no more."""
    from worker import settings, topics

    with plainly():
        commands = topics.acl_commands(settings.load(), user)
    for command in commands:
        typer.echo(command)


@app.command()
def replay(
    files: Annotated[
        list[Path], typer.Argument(exists=True, dir_okay=False, help="Histories, or one data set.", metavar="FILE...")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for what the topics would have got.")] = None,
    form: Annotated[Literal["jsonl", "parquet"], typer.Option("--format", help="Form of what is written.")] = "jsonl",
    playbook: Annotated[Path | None, typer.Option(help="Playbook (TOML).", dir_okay=False)] = None,
    currency: Annotated[str | None, typer.Option(help="The shop's currency, ISO 4217.")] = None,
    timezone: Annotated[str | None, typer.Option(help="The shop's timezone, IANA.")] = None,
    partitions: Annotated[int | None, typer.Option(help="Split into so many, as the topics are.")] = None,
    live_from: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d"])] = None,
    salt: Annotated[str | None, typer.Option(help="Draws who is held out.")] = None,
    horizons_days: Annotated[
        str | None, typer.Option(help="Days that the risk looks ahead, separated by commas; the first is acted on.")
    ] = None,
) -> None:
    """Run the worker's own rules over a recorded history, without a broker.

    Histories are JSON lines or Parquet; the data sets that `recall import` knows are read as they are.
    What is not given comes from the environment (RECALL_...). Without --live-from
    the shop is live from the beginning.
    """
    from worker import settings

    with plainly(), _file_errors():
        source = _data_set(files)
        given = {
            "playbook": playbook,
            "currency": currency or (source and source.currency),
            "timezone": timezone or (source and source.timezone),
            "partitions": partitions,
            "live_from": live_from and live_from.replace(tzinfo=live_from.tzinfo or UTC),
            "salt": salt,
            "horizons_days": horizons_days,
        }
        config = settings.load(**{name: value for name, value in given.items() if value is not None})
        _replay(config, files, source, out, form)


@import_app.command("online-retail")
def import_online_retail(file: InputFile, out: OutputFile) -> None:
    """UCI Online Retail: orders and refunds by invoice, in pounds. Lines without a customer are left out."""
    _import("online-retail", file, out)


@import_app.command("cdnow")
def import_cdnow(file: InputFile, out: OutputFile) -> None:
    """CDNOW: one order a line, in dollars."""
    _import("cdnow", file, out)


@import_app.command("tmall")
def import_tmall(
    file: InputFile,
    out: OutputFile,
    price: Annotated[
        str, typer.Option(help="In yuan. The file has no prices: every purchase is one order at this one price.")
    ] = "100.00",
) -> None:
    """Tmall: clicks, favourites, carts and orders on three topics.

    The file has no prices: each purchase counts as one order at a flat price, so
    money says nothing here beyond the number of orders.
    """
    _import("tmall", file, out, price=price)


@app.command()
def simulate(
    out: Annotated[
        Path | None,
        typer.Option(help="History to write: .jsonl, .jsonl.gz or .parquet; with --policy, a folder for all topics."),
    ] = None,
    users: Annotated[int, typer.Option(help="How many customers.")] = 500,
    days: Annotated[int, typer.Option(help="How many days.")] = 240,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 1,
    family: Annotated[str, typer.Option(help="Whose effects of touches hold; see docs/simulator.md.")] = "central",
    truth: Annotated[Path | None, typer.Option(help="File for what each customer is, and what came: .jsonl.")] = None,
    policy: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Let this playbook touch the customers.")
    ] = None,
    live_from: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d"], help="With --policy; else after a third of the days."
        ),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Show the shop beside the data sets of this folder, no more."),
    ] = None,
    *,
    judging: Annotated[bool, typer.Option("--judging", help="Allow the families that are kept for judging.")] = False,
) -> None:
    """Run a simulated shop whose customers' reasons are known.

    Without --policy its history is written, the oddities of real streams included; with it, the rules and the customers
    answer each other day by day, and what the touches truly brought is shown.
    """
    from worker import settings
    from worker.simulate import START, command
    from worker.simulate.shop import CURRENCY, DAYS, TIMEZONE, Shop

    console = make_console()

    def shop() -> Shop:
        return Shop(users=users, days=days, seed=seed, family=family, judging=judging)

    with plainly(), _file_errors():
        if compare is not None:
            command.compare(compare, family, console)
        elif policy is not None:
            from worker.stream.process import calm_gc

            calm_gc()
            third = datetime.fromtimestamp(DAYS.start(DAYS.number(START) + days // 3) / 1000, UTC)
            since = third if live_from is None else live_from.replace(tzinfo=live_from.tzinfo or UTC)
            config = settings.load(currency=CURRENCY, timezone=TIMEZONE, playbook=policy, live_from=since)
            command.closed_loop(shop(), shop(), config, out, truth, console)
        elif out is None:
            raise ValueError("allowed is --out FILE, --policy PLAYBOOK or --compare FOLDER")
        else:
            command.open_loop(shop(), out, truth, console)
            typer.echo(f"\nNext: {command.next_step(out)}")


@app.command()
def schema(
    directory: Annotated[Path | None, typer.Option("--out", help="Folder; the package's own if not given.")] = None,
    *,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail where a file is stale.")] = False,
) -> None:
    """Write the JSON Schema of every contract."""
    import schemas
    from schemas import generate

    target = directory or Path(schemas.__file__).parent / "json"
    if not check:
        with plainly():
            typer.echo(f"{len(generate.generate(target))} schemas written to {target}")
        return
    stale = generate.stale(target)
    if stale:
        typer.echo(f"stale in {target}: {', '.join(stale)}; `recall schema` writes them anew", err=True)
        raise typer.Exit(1)
    typer.echo(f"{target} is up to date")


@app.command()
def demo(
    data: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A history or data set; else a simulated shop.")
    ] = None,
    users: Annotated[int | None, typer.Option(help="How many customers the simulated shop has.", min=1)] = None,
    days: Annotated[int | None, typer.Option(help="How many days the simulated shop runs.", min=1)] = None,
) -> None:
    """Start a broker and a worker, stream a shop through them, and show the commands as they come."""
    from worker import demo as show

    with plainly(), _file_errors():
        raise typer.Exit(show.run(data, users=users or show.USERS, days=days or show.DAYS))


@app.command()
def evaluate(
    sets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SET]...", help="cdnow, retail, tmall, simulated, or one task of them; else all."),
    ] = None,
    *,
    data: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="The folder of the data sets.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for results, page and summary.", show_default=False)
    ],
    resamples: Annotated[int, typer.Option(help="Of the users, for intervals.", min=20)] = 200,
    learner: Annotated[Literal["river", "vectorised"], typer.Option(help="Which learns: both say the same.")] = "river",
) -> None:
    """Measure the model on public data, beside batch models, with intervals.

    It needs what the extra `evaluate` of the package installs.
    """
    with plainly(), _file_errors():
        try:
            from worker.evaluate import command
        except ModuleNotFoundError as error:
            raise ValueError(f"{error.name} is not installed: pip install 'recall-worker[evaluate]'") from error
        command.run(sets or (), data, out, learner=learner, draws=resamples, console=make_console())


@app.command("adopt-playbook")
def adopt_playbook(
    file: InputFile,
    at: Annotated[
        datetime,
        typer.Option(
            formats=["%Y-%m-%dT%H:%M:%S%z"], help="From when on it holds, as in 2026-01-05T00:00:00Z.", metavar="TIME"
        ),
    ],
) -> None:
    """Bring a playbook into force from a time on, in every partition.

    The workers must have been given the file: one that does not know the playbook holds its partition
    until it does.
    """
    from worker import settings
    from worker.adopt import adopt

    with plainly():
        config = settings.load()
        version = adopt(config, file, at)
    typer.echo(f"{version} holds from {at.isoformat()} on, in {config.partitions} partitions")


@app.command()
def model(
    *,
    file: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, readable=True, help="A churn-model.jsonl of `recall replay --out` instead."
        ),
    ] = None,
) -> None:
    """Show how good the model's predictions were, beside BG/NBD, recency and a constant.

    Of the newest snapshot of each horizon, as it lies on the broker.
    """
    from worker import model_report, settings

    with plainly():
        found = model_report.from_file(file) if file else model_report.from_topic(settings.load())
    console = make_console()
    for i, (_, snapshot) in enumerate(sorted(found.items())):
        if i:
            console.print("")
        console.print(model_report.shown(snapshot))
    if not found:
        console.print(model_report.NONE_YET)


@dead_letters_app.command("list")
def list_dead_letters(
    reason: Annotated[str | None, typer.Option(help="Show each letter of this reason.")] = None,
) -> None:
    """Count the dead letters by reason, or show each one of a reason."""
    from worker import dead_letters, settings

    with plainly():
        found = dead_letters.letters(settings.load())
    console = make_console()
    if reason is not None:
        console.print(letters_of(filed for filed in found if filed.letter.reason == reason))
    elif found:
        console.print(reasons(dead_letters.by_reason(found)))
    else:
        console.print("no dead letters")


@dead_letters_app.command("show")
def show_dead_letter(
    place: PlaceArgument,
    *,
    original: Annotated[
        bool, typer.Option("--original", help="Show the original's key and bytes too: personal data.")
    ] = False,
) -> None:
    """Show one dead letter, and what became of its original."""
    from worker import dead_letters, settings

    with plainly():
        config = settings.load()
        filed = dead_letters.find(config, dead_letters.Place.of(place))
        record = dead_letters.original(config, filed.letter)
    console = make_console()
    console.print(letter_facts(filed))
    if record is None:
        console.print(facts([("original", "gone: its topic no longer keeps it" if filed.letter.topic else "none")]))
    elif original:
        console.print(record_facts(record))
    else:
        console.print(facts([("original", f"{len(record.value or b''):,} bytes; --original shows them")]))


@dead_letters_app.command("send")
def send_dead_letter(
    place: PlaceArgument,
    *,
    value: Annotated[
        Path | None, typer.Option(help="The repaired record, as a file.", exists=True, dir_okay=False)
    ] = None,
    as_is: Annotated[bool, typer.Option("--as-is", help="The original as it is: the worker was mended.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Even if it was sent back before.")] = False,
) -> None:
    """Send a record back to its topic, under its own key, after showing it.

    A record that the rules would leave out again is not sent.
    """
    from worker import dead_letters, settings

    with plainly():
        if (value is None) != as_is:
            raise ValueError("allowed is either --value FILE or --as-is")
        config = settings.load()
        filed = dead_letters.find(config, dead_letters.Place.of(place))
        record = dead_letters.original(config, filed.letter)
        if record is None:
            raise ValueError(
                f"{place}: the original is gone, and its key with it: let its producer send the event anew"
            )
        if value is not None:
            record = record._replace(value=value.read_bytes())
        why = dead_letters.verdict(config, record)
        if why is not None:
            raise ValueError(f"{place}: the worker would leave it out again: {why}")
    make_console().print(record_facts(record))
    if not yes:
        typer.confirm("Send it?", abort=True)
    with plainly():
        offset = dead_letters.send(config, filed, record, again=again)
    typer.echo(f"sent: {record.topic}[{record.partition}] at {offset}")


# -- parts -------------------------------------------------------------------------------------------------------------


@contextmanager
def _file_errors() -> Iterator[None]:
    """Let what DuckDB says of a file count as a fault of the file."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        raise ValueError(str(error)) from error


def _data_set(files: list[Path]) -> Source | None:
    """Open a data set that is no history; None for histories."""
    from worker.sources import detect, open_source

    forms = {path: detect(path) for path in files}
    if set(forms.values()) == {"history"}:
        return None
    if len(files) > 1:
        told = ", ".join(f"{path.name} ({form})" for path, form in forms.items())
        raise ValueError(f"files: {told}: allowed are histories, or one data set")
    return open_source(files[0])


def _replay(config: Settings, files: list[Path], source: Source | None, out: Path | None, form: Form) -> None:
    from worker.outputs import Files
    from worker.replay import Replay
    from worker.stream.process import calm_gc
    from worker.tally import Tally

    calm_gc()
    topics, total = _topics(files, source)
    console, tally = make_console(), Tally()
    with ExitStack() as stack:
        written = stack.enter_context(Files(out, form)) if out else None
        progress = stack.enter_context(make_progress(console))
        task = progress.add_task("replaying", total=total)

        def emit(number: int, output: Output) -> None:
            tally.take(output.topic, output.value, output.headers)
            if written is not None:
                written.take(number, output)

        run = Replay(config, emit, progress=lambda n: progress.advance(task, n))
        topics["orders"] = _watched(topics.get("orders", iter(())), tally)
        run.run(topics)
    if source is not None:
        console.print(accounting(source))
    console.print(facts([("records", f"{total:,} in {config.partitions} partitions")]))
    console.print(outcome(tally, run.counts))
    if written is not None:
        console.print(facts([("written to", str(out)), ("", ", ".join(path.name for path in written.written))]))


def _topics(files: list[Path], source: Source | None) -> tuple[dict[str, Chunks], int]:
    """Return the records by topic, and how many there are."""
    from worker.replay import by_topic
    from worker.sources import history

    if source is None:
        counts = history.topics(files)
        return {topic: history.read(files, topic) for topic in counts}, sum(counts.values())
    records = list(source.records)
    return by_topic(records), len(records)


def _watched(chunks: Chunks, tally: Tally) -> Chunks:
    """Note whose orders go by."""
    for chunk in chunks:
        tally.customers.update(record.key for record in chunk)
        yield chunk


def _import(form: str, file: Path, out: Path, **options: str) -> None:
    from worker.sources import FORMS, history

    with plainly(), _file_errors():
        source = FORMS[form](file, **options)
        count = history.write(out, source.records)
    console = make_console()
    console.print(accounting(source))
    console.print(facts([("records", f"{count:,}"), ("written", str(out))]))
    typer.echo(f"\nNext: recall replay {out} --currency {source.currency} --timezone {source.timezone}")


if __name__ == "__main__":
    main()
