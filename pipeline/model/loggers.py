"""The lines of metrics.jsonl sent on: TensorBoard files, Weights & Biases, MLflow.

Each through its own library, imported only when asked for, in the first process alone. Where they
store is theirs to know (their environment variables), and logs/ beside the metrics where they ask.
Imports no torch.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.config import plain
from pipeline.core.errors import RecipeError
from pipeline.model.settings import FitConfig

if TYPE_CHECKING:
    from pipeline.model.world import World

Line = dict[str, Any]
Tell = Callable[[Line], None]

LIBRARIES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
"""tensorboardX writes what TensorBoard reads, without TensorFlow or a server; Ray Train has it."""

SILENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false"}
"""Their makers hear nothing of a run unless the environment says otherwise."""

MARK = "run"
"""The file beside a library's own that names the run which a restart goes on with."""


def check(cfg: FitConfig) -> None:
    """RecipeError where a library that `log_to` names is not installed."""
    for kind in cfg.log_to:
        if find_spec(LIBRARIES[kind]) is None:
            raise RecipeError(
                f"log_to is {kind}, but {LIBRARIES[kind]} is not installed: "
                f"pip install 'icefloe[{kind}]', or leave {kind} out of log_to"
            )


@contextmanager
def logged(
    cfg: FitConfig, folder: Path, name: str, start: int, world: "World", on_step: Tell
) -> Iterator[Tell]:
    """`on_step` that also tells what `log_to` names; what follows step `start` is told anew.

    folder: for their files; name: the phase's. The libraries are there (`check`).
    """
    wanted = cfg.log_to if world.rank == 0 else ()
    for name_, value in SILENT.items() if wanted else ():
        os.environ.setdefault(name_, value)
    with ExitStack() as stack:
        tells = [stack.enter_context(_OPENED[k](folder / k, name, start, cfg)) for k in wanted]

        def tell(line: Line) -> None:
            on_step(line)
            for one in tells:
                one(line)

        yield tell


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """A line's numbers by name, held-out ones as heldout/LANGUAGE; `step` is left out."""
    flat = {k: v for k, v in line.items() if k not in ("step", "heldout")}
    return flat | {f"heldout/{k}": v for k, v in line.get("heldout", {}).items()}


@contextmanager
def _tensorboard(folder: Path, name: str, start: int, cfg: FitConfig) -> Iterator[Tell]:
    writer = import_module("tensorboardX").SummaryWriter(str(folder), purge_step=start)

    def tell(line: Line) -> None:
        for key, value in numbers(line).items():
            writer.add_scalar(key, value, line["step"])

    with writer:
        yield tell


@contextmanager
def _wandb(folder: Path, name: str, start: int, cfg: FitConfig) -> Iterator[Tell]:
    known = _known(folder)
    wandb = import_module("wandb")
    given = {"name": name, "dir": str(folder), "config": plain(cfg)}
    try:
        with _begun("wandb", wandb.errors.Error):
            run = wandb.init(project="icefloe", id=known, resume="allow", **given)
        with run:
            (folder / MARK).write_text(run.id)
            yield lambda line: run.log(numbers(line), step=line["step"])
    finally:
        wandb.teardown()  # its own process still writes there, and a phase's files are hashed


@contextmanager
def _mlflow(folder: Path, name: str, start: int, cfg: FitConfig) -> Iterator[Tell]:
    known = _known(folder)
    mlflow = import_module("mlflow")
    with _stored(mlflow, folder):
        with _begun("mlflow", mlflow.MlflowException):
            run = mlflow.start_run(run_id=known, run_name=None if known else name)
        with run:
            (folder / MARK).write_text(run.info.run_id)
            mlflow.log_params(_flat(plain(cfg)))
            yield lambda line: mlflow.log_metrics(numbers(line), step=line["step"])


def _known(folder: Path) -> str | None:
    """The run that an earlier life has begun in `folder`, which is there afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / MARK
    return (mark.read_text() or None) if mark.exists() else None


@contextmanager
def _begun(kind: str, error: type[Exception]) -> Iterator[None]:
    """RecipeError for an `error` of the library's in this block: no key, no server, a run that is gone."""
    try:
        yield
    except error as e:
        raise RecipeError(
            f"log_to is {kind}, which does not begin: {str(e).splitlines()[0]} Mend that (WANDB_MODE, "
            f"MLFLOW_TRACKING_URI), or leave {kind} out of log_to"
        ) from e


@contextmanager
def _stored(mlflow: Any, folder: Path) -> Iterator[None]:
    """In `folder`, unless its environment variable says where. What is set here is set as that
    variable too, so it is taken back: the next phase of the process has a folder of its own."""
    if os.environ.get("MLFLOW_TRACKING_URI"):
        yield
        return
    mlflow.set_tracking_uri(f"sqlite:///{folder.resolve()}/mlflow.db")
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)


def _flat(settings: Mapping[str, Any], under: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    out: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, Mapping)
        out |= _flat(value, f"{under}{key}.") if nested else {f"{under}{key}": value}
    return out


_OPENED: dict[str, Callable[[Path, str, int, FitConfig], Any]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
