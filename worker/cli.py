"""The `recall` command."""

# ruff: noqa: PLC0415 - what a command needs is imported when it runs, so that the others start fast

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from worker.console import (
    accounting,
    facts,
    letter_facts,
    letters_of,
    make_console,
    make_progress,
    numbers,
    outcome,
    reasons,
    record_facts,
)
from worker.stream.exits import EXIT_REFUSED, EXIT_UNAVAILABLE, RefusedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from worker.grants import Grant
    from worker.outputs import Form
    from worker.replay import Chunks, Replay
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


PlaybookOption = Annotated[Path | None, typer.Option(help="Playbook (TOML).", dir_okay=False)]
CurrencyOption = Annotated[str | None, typer.Option(help="The shop's currency, ISO 4217.")]
TimezoneOption = Annotated[str | None, typer.Option(help="The shop's timezone, IANA.")]
PartitionsOption = Annotated[int | None, typer.Option(help="Split into so many, as the topics are.")]
LiveFromOption = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d"])]
SaltOption = Annotated[str | None, typer.Option(help="Draws who is held out.")]
HorizonsOption = Annotated[
    str | None, typer.Option(help="Days that the risk looks ahead, separated by commas; the first is acted on.")
]
GrantOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Money a day for a budget, from the first midnight on; may be given several times.",
        metavar="BUDGET=AMOUNT[:LAMBDA]",
    ),
]
AtOption = Annotated[
    datetime,
    typer.Option(
        formats=["%Y-%m-%dT%H:%M:%S%z"], help="From when on it holds, as in 2026-01-05T00:00:00Z.", metavar="TIME"
    ),
]
UntilOption = Annotated[
    datetime | None,
    typer.Option(formats=["%Y-%m-%dT%H:%M:%S%z"], help="When it ends; never if not given.", metavar="TIME"),
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
        told = "\n".join(map(_shortened, str(error).splitlines()))
        make_console(stderr=True).print(f"recall: {told}", soft_wrap=True)
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
        list[Path] | None,
        typer.Argument(exists=True, dir_okay=False, help="Histories, or one data set.", metavar="[FILE]..."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for what the topics would have got.")] = None,
    form: Annotated[Literal["jsonl", "parquet"], typer.Option("--format", help="Form of what is written.")] = "jsonl",
    playbook: PlaybookOption = None,
    currency: CurrencyOption = None,
    timezone: TimezoneOption = None,
    partitions: PartitionsOption = None,
    live_from: LiveFromOption = None,
    salt: SaltOption = None,
    horizons_days: HorizonsOption = None,
    grant: GrantOption = None,
    report: Annotated[
        Path | None, typer.Option(help="Page (Markdown) to write about what was decided.", dir_okay=False)
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d"],
            help="Leave out what comes out before; the history before makes the state.",
            metavar="DATE",
        ),
    ] = None,
    *,
    from_kafka: Annotated[
        bool, typer.Option("--from-kafka", help="Read the topics of RECALL_BROKER instead of files.")
    ] = False,
) -> None:
    """Run the worker's own rules over a recorded history.

    Histories are JSON lines or Parquet; the data sets that `recall import` knows are read as they are.
    With --from-kafka the history is what the topics hold now: they are read, and nothing is joined, committed or
    written there. What is not given comes from the environment (RECALL_...). Without --live-from
    the shop is live from the beginning.
    """
    with plainly(), _file_errors():
        if bool(files) == from_kafka:
            raise ValueError("allowed is either FILE, one or several, or --from-kafka")
        given = _given(playbook, currency, timezone, partitions, live_from, salt, horizons_days)
        shown = _Shown(out, form, report, None if since is None else _ms(since))
        if from_kafka:
            _replay_topics(given, _grants(grant), shown)
        else:
            source = _data_set(files or [])
            _replay_files(_settings_of(source, given), files or [], source, _grants(grant), shown)


@app.command()
def backfill(
    files: Annotated[
        list[Path], typer.Argument(exists=True, dir_okay=False, help="Histories, or one data set.", metavar="FILE...")
    ],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, whatever is warned of.")] = False,
) -> None:
    """Write a history onto topics that no worker has read yet.

    All of it has to lie before RECALL_LIVE_FROM: the worker learns from it, and messages nobody about it. Nothing is
    written where a worker has run, or where a topic holds anything.
    """
    from worker import backfill as filling
    from worker import settings

    console = make_console()
    with plainly(), _file_errors():
        source = _data_set(files)
        own = {} if source is None else {"currency": source.currency, "timezone": source.timezone}
        config = settings.load(**own)
        records: filling.Records = filling.Files(files) if source is None else filling.Given(list(source.records))
        with make_progress(console) as progress:
            task = progress.add_task("looking through", total=records.count())
            plan = filling.plan(config, records, lambda n: progress.advance(task, n))
        console.print(facts(plan.facts()))
        for warning in plan.warnings:
            console.print(f"warning: {warning}")
    if plan.warnings and not yes:
        typer.confirm("Write it all the same?", abort=True)
    with plainly(), _file_errors():
        with make_progress(console) as progress:
            task = progress.add_task("writing", total=plan.records)
            done = filling.fill(config, plan, records, lambda n: progress.update(task, completed=n))
        console.print(facts(done.facts()))
    typer.echo("\nNext: recall worker, with the same settings; or, to see what would come of it,")
    typer.echo(f"recall replay --from-kafka --since {plan.last[:10]} --out FOLDER")


@app.command()
def report(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            exists=True,
            help="Folders that `recall replay --out` wrote, and the histories with orders and feedback.",
            metavar="[PATH]...",
            show_default=False,
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Page to write.", dir_okay=False)] = None,
    parquet: Annotated[
        Path | None, typer.Option(help="Folder for decisions, touches and outcomes, for analysts.", file_okay=False)
    ] = None,
    form: Annotated[Literal["text", "json"], typer.Option("--format", help="For people or for programs.")] = "text",
    playbook: PlaybookOption = None,
    currency: CurrencyOption = None,
    timezone: TimezoneOption = None,
    *,
    from_kafka: Annotated[
        bool, typer.Option("--from-kafka", help="Read the topics of RECALL_BROKER instead of files.")
    ] = False,
) -> None:
    """Tell what the touches have brought, against the users who were held out.

    Everything that compares has a 95% interval, by user. What cannot be told yet is said, with
    how long it will take. The playbook is the one in force: its holdout, margin and prices count.
    """
    from worker import settings
    from worker.report import command

    given = {"playbook": playbook, "currency": currency, "timezone": timezone}
    with plainly(), _file_errors():
        if bool(paths) == from_kafka:
            raise ValueError("allowed is either PATH, one or several, or --from-kafka")
        config = settings.load(**{name: value for name, value in given.items() if value is not None})
        command.run(paths or [], config, html=html, parquet=parquet, form=form, console=make_console())


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
    grant: GrantOption = None,
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
            command.closed_loop(shop(), shop(), config, _grants(grant), out, truth, console)
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
    """Write the JSON Schema of every contract, and an AsyncAPI document of all topics."""
    import schemas
    from schemas import generate

    target = directory or Path(schemas.__file__).parent
    if not check:
        with plainly():
            typer.echo(f"{len(generate.generate(target))} files written to {target}")
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
        typer.Argument(
            metavar="[SET]...", help="cdnow, retail, tmall, simulated, one task of them, or hillstrom; else all."
        ),
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
    """Measure the model and the choice on public data, beside batch models and other policies, with intervals.

    It needs what the extra `evaluate` of the package installs.
    """
    with plainly(), _file_errors():
        try:
            from worker.evaluate import command
        except ModuleNotFoundError as error:
            raise ValueError(f"{error.name} is not installed: pip install 'recall-worker[evaluate]'") from error
        command.run(sets or (), data, out, learner=learner, draws=resamples, console=make_console())


@app.command("check")
def check_playbook(
    file: InputFile,
    grant: Annotated[
        list[str] | None,
        typer.Option(help="Money a day that a budget is to have; may be given several times.", metavar="BUDGET=AMOUNT"),
    ] = None,
) -> None:
    """Look for what is wrong with a playbook before it costs: mistakes, plays that no one can reach, rules that clash.

    With --grant also whether the money pays for a contact in every partition. Exits with 1 where
    there is an error; warnings are for a person to judge.
    """
    from worker import settings
    from worker.recall.playbook import read
    from worker.recall.playbook.check import check

    with plainly():
        config = settings.load()
        grants = {given.budget: given.amount for given in _grants(grant)}
        try:
            told = read.read(file)
            findings = check(told, grants=grants, partitions=config.partitions, horizons_days=config.horizons_days)
        except read.PlaybookError as error:
            findings = list(error.findings)
    for finding in findings:
        typer.echo(_shortened(f"{finding.level}: {read.told(str(file), finding)}"))
    errors = sum(finding.level == "error" for finding in findings)
    typer.echo(f"{file}: {_some(errors, 'error')}, {_some(len(findings) - errors, 'warning')}")
    if errors:
        raise typer.Exit(1)


@app.command("adopt-playbook")
def adopt_playbook(
    file: InputFile,
    at: AtOption,
    share: Annotated[
        float, typer.Option(help="Of the users, by a hash; the playbook before stays for the rest.")
    ] = 1.0,
) -> None:
    """Bring a playbook into force from a time on, in every partition; with --share for some of the users.

    The workers must have been given the file: one that does not know the playbook holds its partition
    until it does.
    """
    from worker import control, settings

    with plainly():
        config = settings.load()
        version = control.adopt(config, file, at, share)
    users = "" if share == 1 else f" for {share:.0%} of the users"
    typer.echo(f"{version} holds{users} from {at.isoformat()} on, in {config.partitions} partitions")


@app.command()
def grant(
    budget: Annotated[str, typer.Argument(help="Its name, as plays have it.")],
    amount: Annotated[str, typer.Option(help="For all partitions together, in the shop's currency.")],
    at: AtOption,
    period: Annotated[
        Literal["day", "campaign"], typer.Option(help="Renewed each day of the shop's, or given once.")
    ] = "day",
    until: UntilOption = None,
    shadow_price: Annotated[
        str, typer.Option(help="Lambda: what one unit of money would have earned elsewhere.")
    ] = "0",
    *,
    force: Annotated[bool, typer.Option("--force", help="Even if it could pay for nothing.")] = False,
) -> None:
    """Grant money for touches; a later grant of the same budget takes its place.

    It is split evenly over the partitions: one that pays for less than a contact in each is refused.
    """
    from worker import control, settings
    from worker.grants import Grant
    from worker.recall.money import exact, micros, micros_text

    with plainly():
        config = settings.load()
        given = Grant(
            budget, micros(amount), period, None if until is None else control.ms(until), exact(shadow_price, "lambda")
        )
        control.grant(config, given, at, force=force)
    told = f"{micros_text(given.amount)} {config.currency}{' a day' if period == 'day' else ''}"
    typer.echo(f"{budget}: {told} from {at.isoformat()} on, split over {config.partitions} partitions")


@app.command()
def approve(
    play: Annotated[str, typer.Argument(help="Its name in the playbook.")], at: AtOption, until: UntilOption = None
) -> None:
    """Let a play be played that waits for it (approval = true)."""
    from worker import control, settings

    with plainly():
        config = settings.load()
        control.approve(config, play, at, until)
    typer.echo(f"{play} may be played from {at.isoformat()} on, in {config.partitions} partitions")


@app.command()
def stop() -> None:
    """Let no command leave any more, from when the workers read this: at the live edge, within seconds.

    What has left is not called back. Decisions go on, and are recorded as stopped.
    """
    from worker import control, settings

    with plainly():
        config = settings.load()
        control.stop(config)
    typer.echo(f"stopped, in {config.partitions} partitions; `recall resume` lets commands leave again")


@app.command()
def resume() -> None:
    """Let commands leave again after `recall stop`; what was stopped is not made up for."""
    from worker import control, settings

    with plainly():
        config = settings.load()
        control.resume(config)
    typer.echo(f"resumed, in {config.partitions} partitions")


@app.command()
def cost(
    *,
    contacts: Annotated[int | None, typer.Option(help="How many users are touched.", min=1)] = None,
    contact_price: Annotated[str, typer.Option(help="Of one message or call.", metavar="AMOUNT")] = "0",
    face_value: Annotated[str, typer.Option(help="Of the coupon that each gets.", metavar="AMOUNT")] = "0",
    redemption: Annotated[str, typer.Option(help="Share of the coupons that are used.", metavar="SHARE")] = "0",
    hours: Annotated[str, typer.Option(help="Of people, planning and looking after.", metavar="HOURS")] = "0",
    hourly_rate: Annotated[str, typer.Option(help="What an hour of theirs costs.", metavar="AMOUNT")] = "0",
    upkeep: Annotated[str, typer.Option(help="Of the system, for that time.", metavar="AMOUNT")] = "0",
    wear: Annotated[str, typer.Option(help="Fatigue and harm to the brand, of each contact.", metavar="AMOUNT")] = "0",
    shadow_price: Annotated[
        str, typer.Option(help="Lambda: what a unit of money would have earned elsewhere.", metavar="NUMBER")
    ] = "0",
    rate_with: Annotated[str | None, typer.Option(help="Share that comes back with contact.", metavar="SHARE")] = None,
    rate_without: Annotated[str, typer.Option(help="Share that would come back without.", metavar="SHARE")] = "0",
    margin: Annotated[
        str | None, typer.Option(help="What one who is won brings in, after cost of goods.", metavar="AMOUNT")
    ] = None,
    decisions: Annotated[
        Path | None,
        typer.Option(exists=True, help="Sum up what was spent instead: a folder of `recall replay --out`."),
    ] = None,
    currency: Annotated[str, typer.Option(help="ISO 4217; that of the decisions is known.")] = "CNY",
    html: Annotated[Path | None, typer.Option(dir_okay=False, help="Page with charts to write.")] = None,
    form: Annotated[Literal["text", "json"], typer.Option("--format", help="Of what is printed.")] = "text",
) -> None:
    """Reckon what winning users back costs in full, or sum up what it has cost.

    Direct, opportunity and hidden costs; what a user who is won costs; and from which save rate on it pays.
    Amounts are in major units; shares from 0 to 1, or in percent.
    """
    from worker.cost import command

    with plainly(), _file_errors():
        if decisions is not None and contacts is None:
            command.ledger(decisions, html, form, make_console())
            return
        if contacts is None or decisions is not None:
            raise ValueError("allowed is either --contacts NUMBER, with what they cost, or --decisions FOLDER")
        question = command.question(
            contacts=contacts,
            contact_price=contact_price,
            face_value=face_value,
            redemption=redemption,
            hours=hours,
            hourly_rate=hourly_rate,
            upkeep=upkeep,
            wear=wear,
            shadow_price=shadow_price,
            rate_with=rate_with,
            rate_without=rate_without,
            margin=margin,
            currency=currency,
        )
        command.answer(question, html, form, make_console())


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


UserArgument = Annotated[str, typer.Argument(metavar="USER", help="The shop's own id of the user.", show_default=False)]
UrlOption = Annotated[
    str | None, typer.Option(help="Of the worker that has the user's partition; else the one on this machine.")
]


@app.command()
def explain(
    user: UserArgument,
    files: Annotated[
        list[Path] | None,
        typer.Argument(exists=True, dir_okay=False, help="Histories, or one data set, to replay.", metavar="[FILE]..."),
    ] = None,
    url: UrlOption = None,
    form: Annotated[Literal["text", "json"], typer.Option("--format", help="Form of what is shown.")] = "text",
    playbook: PlaybookOption = None,
    currency: CurrencyOption = None,
    timezone: TimezoneOption = None,
    partitions: PartitionsOption = None,
    live_from: LiveFromOption = None,
    salt: SaltOption = None,
    horizons_days: HorizonsOption = None,
    grant: GrantOption = None,
) -> None:
    """Say what is known of a user, what was decided and why, and what would be sent next.

    Of a running worker; or, with files, of the end of a replay of them, with its options.
    """
    with plainly(), _file_errors():
        if files:
            given = _given(playbook, currency, timezone, partitions, live_from, salt, horizons_days)
            told = _explained(user, files, given, _grants(grant))
        else:
            from worker import asking, settings

            told = asking.ask(settings.load(), "explain", user, url)
    _show(told, form)


@app.command()
def export(
    user: UserArgument,
    url: UrlOption = None,
    *,
    topics: Annotated[
        bool, typer.Option("--topics", help="Also what the topics hold; reads the user's partition of each.")
    ] = False,
) -> None:
    """Write as JSON everything that is kept of a user: the answer to a request for access."""
    from worker import asking, settings

    with plainly():
        config = settings.load()
        told = asking.ask(config, "export", user, url)
        if topics:
            told["topics"] = asking.on_topics(config, user)
    _show(told, "json")


@app.command()
def erase(
    user: UserArgument,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Have everything about a user erased, for good: the worker drops it when it reads this.

    What the topics hold of him stays until their retention takes it; see docs/privacy.md.
    """
    from worker import asking, settings

    if not yes:
        typer.confirm(f"Erase everything that is kept of {user}, for good?", abort=True)
    with plainly():
        place = asking.erase(settings.load(), user)
    typer.echo(f"written: {place}; what is under way is called back")


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


def _shortened(line: str) -> str:
    return line if len(line) <= LINE_MAX else f"{line[:LINE_MAX]}..."


def _ms(at: datetime) -> int:
    """Return a time in ms; one without a zone is UTC's."""
    return round(at.replace(tzinfo=at.tzinfo or UTC).timestamp() * 1000)


def _some(n: int, what: str) -> str:
    return f"{n or 'no'} {what}{'' if n == 1 else 's'}"


def _given(
    playbook: Path | None,
    currency: str | None,
    timezone: str | None,
    partitions: int | None,
    live_from: datetime | None,
    salt: str | None,
    horizons_days: str | None,
) -> dict[str, object]:
    """Return the settings of a replay that were given as options."""
    given = {
        "playbook": playbook,
        "currency": currency,
        "timezone": timezone,
        "partitions": partitions,
        "live_from": live_from and live_from.replace(tzinfo=live_from.tzinfo or UTC),
        "salt": salt,
        "horizons_days": horizons_days,
    }
    return {name: value for name, value in given.items() if value is not None}


def _settings_of(source: Source | None, given: dict[str, object]) -> Settings:
    """Return the settings of a replay; a data set brings its currency and timezone along."""
    from worker import settings

    own = {} if source is None else {"currency": source.currency, "timezone": source.timezone}
    return settings.load(**(own | given))


def _explained(user: str, files: list[Path], given: dict[str, object], grants: list[Grant]) -> dict[str, Any]:
    """Replay histories, and explain a user at their end with all that was decided of him."""
    from worker.inquiry import kept
    from worker.recall import explanation
    from worker.replay import Replay

    source, key = _data_set(files), user.encode()
    config = _settings_of(source, given)
    decisions = []

    def emit(_: int, output: Output) -> None:
        if output.topic == "recall-decisions" and output.key == key:
            decisions.append(json.loads(output.value))

    run = Replay(config, emit, grants=grants)
    run.run(_topics(files, source)[0])
    partition = run.partition_of(key)
    found = kept(partition, run.customers, key)
    if found is None:
        raise ValueError(f"user = {user!r}: allowed is one of whom the history tells something")
    return explanation.explain(run.customers, found, decisions)


def _show(told: dict[str, Any], form: Literal["text", "json"]) -> None:
    if form == "json":
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return
    from worker.told import explanation

    make_console().print(explanation(told))


def _grants(texts: list[str] | None) -> list[Grant]:
    from worker.grants import Grant

    return [Grant.of(text) for text in texts or ()]


class _Shown(NamedTuple):
    """What of a replay is wanted: files, a page, and from when on (ms)."""

    out: Path | None
    form: Form
    report: Path | None
    since: int | None


def _replay_files(
    config: Settings, files: list[Path], source: Source | None, grants: list[Grant], shown: _Shown
) -> None:
    from worker.tally import Tally

    topics, total = _topics(files, source)
    tally = Tally()
    topics["orders"] = _watched(topics.get("orders", iter(())), tally)

    def through(run: Replay, _progress: Callable[[int], None]) -> int:
        run.run(topics)
        return total

    _replay(config, tally, total, grants, shown, through, source)


def _replay_topics(given: dict[str, object], grants: list[Grant], shown: _Shown) -> None:
    from worker import settings
    from worker.from_kafka import Reader, TopicsHistory, held
    from worker.replay import Fed
    from worker.tally import Tally

    tally, config = Tally(), settings.load(**given)
    with Reader(config) as reader:
        there = held(reader)
        wanted = given.get("partitions", there.partitions)
        if wanted != there.partitions:
            raise ValueError(f"partitions = {wanted}: allowed is {there.partitions}, as the topics have, or nothing")
        config = settings.load(**given | {"partitions": there.partitions})
        for warning in there.cut():
            make_console(stderr=True).print(f"warning: {warning}")

        def watch(topic: str, records: Sequence[Fed]) -> None:
            if topic == "orders":
                tally.customers.update(record.key for record in records if record.key)

        def through(run: Replay, progress: Callable[[int], None]) -> int:
            history = TopicsHistory(reader, there, watch=watch, progress=progress)
            run.models.update(history.models())
            run.follow(history)
            return history.count

        _replay(config, tally, there.records, grants, shown, through)


def _replay(
    config: Settings,
    tally: Tally,
    expected: int,
    grants: list[Grant],
    shown: _Shown,
    go: Callable[[Replay, Callable[[int], None]], int],
    source: Source | None = None,
) -> None:
    """Replay, with a bar for the records that are expected, and show what came of those that were there."""
    from worker.outputs import Files
    from worker.replay import Replay
    from worker.since import Since
    from worker.stream.process import calm_gc

    calm_gc()
    console, out = make_console(), shown.out
    with ExitStack() as stack:
        written = stack.enter_context(Files(out, shown.form)) if out else None
        progress = stack.enter_context(make_progress(console))
        task = progress.add_task("replaying", total=expected)

        def advance(n: int) -> None:
            progress.advance(task, n)

        def emit(number: int, output: Output) -> None:
            if since is not None and not since.counts(number, output):
                tally.before(output.topic, output.value)
                return
            tally.take(output.topic, output.value, output.headers)
            if written is not None:
                written.take(number, output)

        run = Replay(config, emit, grants=grants, progress=advance)
        since = None if shown.since is None else Since(shown.since, lambda number: run.partitions[number].clock)
        total = go(run, advance)
    if source is not None:
        console.print(accounting(source))
    console.print(facts([("records", f"{total:,} in {config.partitions} partitions")]))
    if since is not None:
        told = "what came out before is left out; customers, tiers and ignored are of the whole history"
        console.print(facts([("since", f"{since.text}: {told}")]))
    if run.products.counts["taken"] or run.products.counts["refused"]:
        console.print(facts([("catalogue", numbers(run.products.counts, f"{len(run.products.catalog):,} products: "))]))
    console.print(outcome(tally, run.counts))
    if shown.report is not None:
        from worker.policy_report import page

        in_force = run.partitions[0].shared.playbook
        text = page(tally, config, in_force, total, grants, None if since is None else since.text)
        shown.report.write_text(text, encoding="utf-8")
        console.print(facts([("report", str(shown.report))]))
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
