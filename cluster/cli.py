"""The `icefloe` command. It alone prints to stdout; everything it shows comes from manifests.

Exit codes: 0 done, 2 something to mend on the user's side, 1 a bug of ours.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cluster import runs
from pipeline.core import log as logs
from pipeline.core import recipe as recipes
from pipeline.core import runner
from pipeline.core.errors import IcefloeError, RecipeError
from pipeline.core.store import Store

cli = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Source repositories in, a small good code model out, served over HTTP.",
)
out = logs.Terminal(highlight=False, width=None if sys.stdout.isatty() else 160)

RecipeName = Annotated[
    str, typer.Argument(help="A shipped recipe (snowcoder) or a path to a .yaml.")
]
RunName = Annotated[
    str | None, typer.Argument(help="A run, by its recipe's name; the latest if left out.")
]
Overlays = Annotated[
    list[str] | None, typer.Option("--with", help="Lay an overlay over it (laptop, or a path).")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="step.key=value, such as unique.threshold=0.8")
]
StoreUri = Annotated[
    str, typer.Option("--store", envvar="ICEFLOE_STORE", help="Where artifacts live.")
]
Until = Annotated[str | None, typer.Option(help="Stop after this step.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print data as JSON.")]
Cluster = Annotated[
    str | None, typer.Option("--address", help="A running Ray cluster; none starts one here.")
]
Engine = Literal["auto", "icefloe", "vllm"]
Precision = Literal["exact", "int8"]
Address = Annotated[str, typer.Option(help="The Ray dashboard's address.")]


@cli.command()
def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    overlays: Overlays = None,
    store: StoreUri = "store",
    until: Until = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Worker processes.")] = None,
    address: Cluster = None,
    as_json: AsJson = False,
) -> None:
    """Make what the recipe asks for; what is already made is kept.

    Example: icefloe run snowcoder --with laptop unique.threshold=0.8
    """
    from cluster.start import connect, cores
    from cluster.train import launcher

    resolved = recipes.load(recipe, overlays or [], overrides or [])
    where = Store(store)
    began = time.monotonic()
    planned = runner.plan(resolved, where, until)
    if not as_json:
        out.print(_plan_table(resolved, planned))
    count = cores() if workers is None else workers
    with where.lock(), launcher(lambda: connect(address)) as launch:
        runtime = runner.Runtime(count, lambda: connect(address), launch)
        every = runner.plan(resolved, where) if until else planned
        runs.record(where, resolved, every, overlays or [], overrides or [])
        for item, manifest, made in runner.run(resolved, where, planned, runtime):
            runs.say(item, manifest, made)
        page = _report(where, resolved.name)
    if as_json:
        out.print_json(data=runs.steps(where, resolved.name))
        return
    runs.summary(where, resolved.name, out)
    out.print(
        f"\n[bold]{escape(resolved.name)}[/] in {time.monotonic() - began:.0f} s. Report: {escape(page)}"
    )
    if not until and where.load("runs", resolved.name, "release.json"):
        out.print(f"Next: icefloe serve {escape(f'{resolved.name} --store {store}')}")


def _report(store: Store, run: str) -> str:
    from cluster.report import write

    return str(write(store, run))


@cli.command()
def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
    overlays: Overlays = None,
    store: StoreUri = "store",
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run would make, and which key changed. Makes nothing.

    Example: icefloe plan snowcoder --with laptop unique.threshold=0.8
    """
    resolved = recipes.load(recipe, overlays or [], overrides or [])
    planned = runner.plan(resolved, Store(store), until)
    if as_json:
        rows = [
            {"step": p.step.name, "stage": p.step.stage, "key": p.key, "made": p.made, "why": p.why}
            for p in planned
        ]
        out.print_json(data=rows)
    else:
        out.print(_plan_table(resolved, planned))


def _plan_table(recipe: recipes.Recipe, planned: list[runner.Planned]) -> Table:
    todo = sum(not p.made for p in planned)
    budget = sum(p.step.policy.seconds or 0 for p in planned if not p.made)
    title = f"{escape(recipe.name)}: {todo} of {len(planned)} steps to make" + (
        f", about {budget:.0f} s" if budget else ""
    )
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("step", "box", "key", "budget", "", "why"):
        table.add_column(name, overflow="fold")
    for p in planned:
        seconds = "" if p.step.policy.seconds is None else f"{p.step.policy.seconds:.0f} s"
        table.add_row(
            p.step.name, p.step.stage, p.key, seconds, "kept" if p.made else "run", escape(p.why)
        )
    return table


@cli.command()
def show(
    name: Annotated[
        str | None, typer.Argument(help="A run, or a step of the latest run (or RUN/STEP).")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="The documents of this batch of a train or pack step, from 0."),
    ] = None,
    sequence: Annotated[
        int | None, typer.Option(help="Only this sequence of the batch, from 0, with its text.")
    ] = None,
    store: StoreUri = "store",
    as_json: AsJson = False,
) -> None:
    """List runs; the steps of a run; one step's manifest with its accounting; or a training batch.

    Examples: icefloe show; icefloe show snowcoder; icefloe show snowcoder/unique;
    icefloe show phase1 --batch 7 --sequence 0
    """
    if batch is not None or sequence is not None:
        _show_batch(Store(store), name, batch, sequence, as_json)
        return
    data = runs.look(Store(store), name)
    if as_json:
        out.print_json(data=data)
    else:
        runs.print_look(data, out)


def _show_batch(
    store: Store, name: str | None, batch: int | None, sequence: int | None, as_json: bool
) -> None:
    from cluster import batches

    if name is None or batch is None:
        raise RecipeError("a batch is of a step: icefloe show phase1 --batch 7 [--sequence 0]")
    found = batches.batch(store, name, batch, sequence)
    if as_json:
        out.print_json(data=found)
    else:
        batches.tell(found, out)


@cli.command()
def explain(
    what: Annotated[
        str, typer.Argument(help="A document's path (or the end of it) or its uid (or the start).")
    ],
    run: Annotated[str | None, typer.Option(help="A run; the latest if left out.")] = None,
    store: StoreUri = "store",
    as_json: AsJson = False,
) -> None:
    """Tell one document's story: verdicts, cluster, score, and the batches that trained on it.

    Example: icefloe explain asyncio/streams.py
    """
    from cluster.explain import stories, tell

    found = stories(Store(store), runs.named(Store(store), run), what)
    if as_json:
        out.print_json(data=found)
    else:
        for story in found:
            tell(story, out)


@cli.command()
def sample(
    step: Annotated[str, typer.Argument(help="A step of the run.")],
    dropped: Annotated[bool, typer.Option("--dropped", help="Only what it dropped.")] = False,
    kept: Annotated[bool, typer.Option("--kept", help="Only what it kept.")] = False,
    rule: Annotated[str | None, typer.Option(help="Only what this rule dropped.")] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Files of each side.")] = 5,
    seed: Annotated[int, typer.Option(help="Another seed shows other files.")] = 0,
    run: Annotated[str | None, typer.Option(help="A run; the latest if left out.")] = None,
    store: StoreUri = "store",
    as_json: AsJson = False,
) -> None:
    """Show files that a step kept beside files that it dropped, near copies as differences.

    Examples: icefloe sample clean; icefloe sample unique --dropped --rule near -n 20
    """
    from cluster import look

    if kept and (dropped or rule is not None):
        raise RecipeError(
            "--kept shows no dropped files; leave out --dropped and --rule, or --kept"
        )
    found = runs.artifact(Store(store), runs.named(Store(store), run), step)
    left = look.kept(found, n, seed) if not dropped else []
    right = look.dropped(found, n, rule, seed) if not kept else []
    if as_json:
        out.print_json(data=look.as_data(left, right))
    else:
        look.tell(left, right, out)


@cli.command()
def verify(run: RunName = None, store: StoreUri = "store", as_json: AsJson = False) -> None:
    """Recount every step from the files alone, and check every hash.

    Example: icefloe verify snowcoder
    """
    from cluster.verify import problems

    where = Store(store)
    name = runs.named(where, run)
    found, checked = problems(where, name)
    if as_json:
        out.print_json(data={"run": name, "checked": checked, "problems": found})
    else:
        for line in found:
            out.print(Text(line, style="red"))
        out.print(
            f"{escape(name)}: {checked['files']} files and {checked['steps']} ledgers checked, "
            f"{len(found)} problems"
        )
    if found:
        raise typer.Exit(2)


@cli.command()
def export(
    step: Annotated[str, typer.Argument(help="A train step of the run.")],
    to: Annotated[Path, typer.Option("--to", help="The folder to write.")],
    number: Annotated[
        int | None, typer.Option("--step", min=1, help="Steps it had taken; the last if left out.")
    ] = None,
    run: Annotated[str | None, typer.Option(help="A run; the latest if left out.")] = None,
    store: StoreUri = "store",
) -> None:
    """Write a checkpoint of a training phase as a Hugging Face folder, for plain transformers.

    Example: icefloe export phase1 --step 1000 --to ./at-1000
    """
    from cluster.checkpoints import write

    where = Store(store)
    row = write(runs.artifact(where, runs.named(where, run), step), step, number, to)
    out.print(
        f"{escape(step)} after {row['step']:,} steps, {row['tokens']:,} tokens, "
        f"loss {row['loss']:.3f}: {escape(str(to))}"
    )


@cli.command()
def serve(
    run: RunName = None,
    port: Annotated[int, typer.Option(min=1, max=65_535)] = 8000,
    host: str = "127.0.0.1",
    store: StoreUri = "store",
    model: Annotated[
        list[str] | None,
        typer.Option(help="One more model: NAME=STEP of the run, or NAME=FOLDER; may be repeated."),
    ] = None,
    keys: Annotated[
        str | None, typer.Option(help="A file (mode 0600) with one API key a line.")
    ] = None,
    engine: Annotated[Engine, typer.Option(help="What runs the models.")] = "auto",
    precision: Annotated[Precision, typer.Option(help="int8 is faster on a CPU.")] = "exact",
    threads: Annotated[int | None, typer.Option(min=1, help="Torch threads; every core.")] = None,
    slots: Annotated[
        int | None, typer.Option(min=1, help="Completions at a time; the engine's own number.")
    ] = None,
    config: Annotated[
        bool, typer.Option("--config", help="Print this as a config for `serve deploy` instead.")
    ] = False,
) -> None:
    """Serve the run's released model and annotator over HTTP until interrupted.

    Examples: icefloe serve snowcoder --port 8000;
    icefloe serve snowcoder --model alpha=phase1 --model beta=phase2;
    icefloe serve snowcoder --config > serve.yaml
    """
    from serve.direct import environment

    # A shell's background job starts with SIGINT ignored; Ray prints a stack for SIGTERM until ours is set.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "RAY_ADDRESS" not in os.environ:
        os.environ |= environment(port)
    from cluster import serving
    from cluster.start import connect
    from serve.app import names
    from serve.start import finish, start

    how = {"engine": engine, "precision": precision, "threads": threads, "slots": slots}
    args = serving.arguments(Store(store), run, model or [], keys, **how)
    if config:
        return print(serving.config(args, host, port), end="")
    start(args, host=host, port=port, connect=connect)
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    for line in serving.announcement(args, names(args), url):
        out.print(Text(line), soft_wrap=True)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()
    out.print("Finishing what runs (Ctrl-C again: at once)")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    finish()


@cli.command()
def report(run: RunName = None, store: StoreUri = "store") -> None:
    """Write the run's report.html again and print where it is."""
    where = Store(store)
    out.print(escape(_report(where, runs.named(where, run))))


@cli.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what this machine can do: cores, memory, GPU, Ray, sandbox, optional engines."""
    from cluster.doctor import checks

    found = checks()
    if as_json:
        out.print_json(data=found)
        return
    table = Table(box=None, show_header=False)
    for key, value in found.items():
        table.add_row(key, str(value))
    out.print(table)


@cli.command()
def submit(
    recipe: RecipeName,
    overrides: Overrides = None,
    overlays: Overlays = None,
    store: StoreUri = "store",
    until: Until = None,
    address: Address = "http://127.0.0.1:8265",
    follow: Annotated[bool, typer.Option(help="Print the job's log until it ends.")] = True,
) -> None:
    """Run a recipe as a Ray job on the cluster at ADDRESS.

    Example: icefloe submit snowcoder --with laptop --address http://127.0.0.1:8265
    """
    from cluster import jobs

    recipes.load(recipe, overlays or [], overrides or [])
    args = [recipe, *(overrides or []), "--store", store, *(["--until", until] if until else [])]
    args += [part for o in overlays or [] for part in ("--with", o)]
    job = jobs.submit(args, address, follow)
    out.print(job)
    if follow and jobs.status(job, address) != "SUCCEEDED":
        raise typer.Exit(2)


@cli.command()
def status(job: str, address: Address = "http://127.0.0.1:8265") -> None:
    """The state of a submitted job."""
    from cluster import jobs

    out.print(jobs.status(job, address))


@cli.command()
def stop(job: str, address: Address = "http://127.0.0.1:8265") -> None:
    """Stop a submitted job."""
    from cluster import jobs

    out.print(f"{job} {'stopping' if jobs.stop(job, address) else 'had already ended'}")


def main() -> None:
    """The console script: user-facing errors become one message and exit code 2."""
    # Other libraries' bars and a warning at every fork; the bars here are our own.
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
    # libgomp's threads spin while they wait: beside two busy processes that makes training 3.7 times
    # as slow as with this, and alone it gains nothing (measured on 2 cores).
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    logs.setup(verbose=bool(os.environ.get("ICEFLOE_DEBUG")))
    try:
        cli()
    except IcefloeError as e:
        kind = "recipe" if isinstance(e, RecipeError) else "error"
        print(f"{kind}: {e}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
