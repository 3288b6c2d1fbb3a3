"""A recipe: named steps, read top to bottom, each one box with its settings and inputs.

`use: dedup` is `pipeline/dedup.py`; a key that is a parameter of its `run` names an earlier step (or
a list or mapping of them), every other key is a setting of its `Config`. An overlay changes
settings by step name or by box; `step.key=value` on the command line changes one. Knows nothing of
what the boxes do.
"""

import importlib
import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Any, get_args, get_origin

import yaml

from pipeline.core.config import Share, config, parse
from pipeline.core.errors import RecipeError, did_you_mean

BOXES = Path(__file__).parent.parent
RECIPES = BOXES / "recipes"


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: `on` and `off` are words, `5e-4` is a number (PyYAML's 1.1: neither).

    A key that is written twice is refused: of two values one would be ignored.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(
                    problem="a key is one word, no list or mapping", problem_mark=key.start_mark
                )
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} is written twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in found if not tag.endswith((":bool", ":float"))]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("(true|false)$"), list("tf"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.\d*([eE][-+]?\d+)?|\.?\d+[eE][-+]?\d+|\.\d+)$"),
    list("-+.0123456789"),
)
_NOT_INPUTS = {"cfg", "job"}
_RESERVED = {"use", "on", "pin"}


@config
class Policy:
    """How a step runs; never part of its identity."""

    workers: int | None = None
    """Worker processes; None is one per core (ours)."""
    seconds: float | None = None
    """What the step should take on the machine the overlay was written for; printed beside the
    time it took (ours)."""
    processes: int | tuple[int, int] = 1
    """Training processes: one trains here, two or more under Ray Train; a pair is the fewest and the
    most, and the cluster decides (ours)."""
    max_quarantine: Share = 0.01
    """Share of a step's rows that may fail before the step stops (ours)."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers is {self.workers}; 0 or more (0: in this process)")
        least, most = bounds(self.processes)
        if not 1 <= least <= most:
            told = self.processes if least == most else list(bounds(self.processes))
            raise ValueError(
                f"processes is {told}; it must be at least 1, or [the fewest, the most]"
            )


def bounds(processes: int | tuple[int, int]) -> tuple[int, int]:
    """The fewest and the most training processes."""
    return (processes, processes) if isinstance(processes, int) else processes


@dataclass(frozen=True)
class Step:
    """One step: `inputs` maps parameters of the box's `run` to step names (or lists, mappings)."""

    name: str
    stage: str
    cfg: Any
    inputs: dict[str, Any]
    policy: Policy
    pin: str | None = None

    @property
    def box(self) -> ModuleType:
        return box(self.stage)


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe. `raw` is what it says after overlays and overrides, for the record."""

    name: str
    steps: tuple[Step, ...]
    raw: dict[str, Any]

    def step(self, name: str) -> Step:
        for step in self.steps:
            if step.name == name:
                return step
        raise RecipeError(f"{self.name}: no step {name!r}{did_you_mean(name, names(self.steps))}")


def names(steps: Iterable[Step]) -> list[str]:
    return [step.name for step in steps]


def load(recipe: str, overlays: Sequence[str] = (), overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that name or path with overlays and `step.key=value` overrides laid over it.

    Raises RecipeError naming file, step, key and value.
    """
    path = find(recipe)
    raw = _read(path)
    _refuse_unknown(raw, {"steps"}, str(path))
    steps = raw.get("steps")
    if not isinstance(steps, dict) or not steps:
        raise RecipeError(f"{path}: a recipe needs `steps:`, a mapping of step name to box")
    for name, step in steps.items():
        _check_shape(name, step, f"{path}: step {name}")
    for overlay in overlays:
        _lay(steps, _read(find(overlay)), str(find(overlay)))
    for override in overrides:
        _override(steps, override)
    return Recipe(path.stem, tuple(_resolve(steps, str(path))), raw)


def _check_shape(name: Any, step: Any, at: str) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name == "run":
        raise RecipeError(
            f"{at}: a step's name is letters, digits, - and _ (a number in quotes), and not `run`"
        )
    if not isinstance(step, dict) or "use" not in step:
        raise RecipeError(f"{at}: a step reads {{use: BOX, ...}}")


def find(recipe: str) -> Path:
    """The file of a recipe or overlay: a path, or the name of a shipped one."""
    for path in (Path(recipe), RECIPES / f"{recipe}.yaml"):
        if path.is_file():
            return path
    known = [p.stem for p in RECIPES.glob("*.yaml")]
    raise RecipeError(f"no recipe {recipe!r}{did_you_mean(recipe, known)}")


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise RecipeError(f"{path}: {e}") from None
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: a mapping is needed at the top")
    return data


def _refuse_unknown(data: dict[str, Any], known: set[str], where: str) -> None:
    for key in data:
        if key not in known:
            raise RecipeError(f"{where}: no key {key!r}{did_you_mean(str(key), known)}")


def _lay(steps: dict[str, Any], overlay: dict[str, Any], where: str) -> None:
    """An overlay has `boxes:` (settings for every step of a box) and `steps:` (for one step)."""
    _refuse_unknown(overlay, {"boxes", "steps"}, where)
    for part, named in ((p, n) for p in overlay for n in _mapping(overlay[p], f"{where}: {p}")):
        _mapping(overlay[part][named], f"{where}: {part}: {named}")
    for stage, settings in _mapping(overlay.get("boxes"), where).items():
        of_box = [s for s in steps.values() if s.get("use") == stage]
        if not of_box:
            stages = {str(s.get("use")) for s in steps.values()}
            raise RecipeError(f"{where}: no step uses {stage!r}{did_you_mean(stage, stages)}")
        for step in of_box:
            _merge(step, settings or {})
    for name, settings in _mapping(overlay.get("steps"), where).items():
        if name not in steps:
            raise RecipeError(f"{where}: no step {name!r}{did_you_mean(name, steps)}")
        _merge(steps[name], settings or {})


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict | None):
        raise RecipeError(f"{where}: {value!r} is no mapping of settings")
    return value or {}


def _merge(into: dict[str, Any], settings: dict[str, Any]) -> None:
    for key, value in settings.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict) and key != "source":
            _merge(into[key], value)
        else:
            into[key] = value


def _override(steps: dict[str, Any], text: str) -> None:
    target, equals, value = text.partition("=")
    name, dot, key = target.partition(".")
    if not (equals and dot and key):
        raise RecipeError(
            f"{text!r}: an override reads step.key=value, such as unique.threshold=0.8"
        )
    if name not in steps:
        raise RecipeError(f"{text}: no step {name!r}{did_you_mean(name, steps)}")
    nested = _value(value)
    for part in reversed(key.split(".")):
        nested = {part: nested}
    _merge(steps[name], nested)


def _value(text: str) -> Any:
    """An override's value as YAML, or the words themselves where they are none (`*.parquet`)."""
    try:
        read = yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text
    return text if isinstance(read, str) and " #" in text else read


def _resolve(steps: dict[str, Any], where: str) -> Iterator[Step]:
    above: dict[str, str] = {}
    for name, raw in steps.items():
        at = f"{where}: step {name}"
        module = box(str(raw["use"]), at)
        yield _step(name, raw, module, above, at)
        above[name] = str(raw["use"])


def _step(
    name: str, raw: dict[str, Any], module: ModuleType, above: dict[str, str], at: str
) -> Step:
    parameters = inputs_of(module)
    given = {k: v for k, v in raw.items() if k in parameters}
    for key, value in given.items():
        kinds = shapes(annotation(module, key))
        if kinds == {dict} and not isinstance(value, dict):
            raise RecipeError(
                f"{at}: {key} is {value!r}; it takes a mapping such as {{name: step}}"
            )
        if isinstance(value, list) or (isinstance(value, dict) and dict not in kinds):
            raise RecipeError(f"{at}: {key} is {value!r}; it takes the name of one step")
        if value == {}:
            raise RecipeError(f"{at}: {key} is an empty mapping; name a step at least")
        _check_edges(key, value, above, makers(module, key), at)
    for key, needed in parameters.items():
        if needed and key not in given:
            raise RecipeError(f"{at}: {key} is required: the name of a step above")
    settings = {k: v for k, v in raw.items() if k not in _RESERVED | parameters.keys()}
    policy = parse(Policy, raw.get("on") or {}, f"{at}: on")
    cfg = parse(module.Config, settings, at)
    if hasattr(module, "check"):
        module.check(cfg, given, at)
    return Step(name, raw["use"], cfg, given, policy, raw.get("pin"))


def _check_edges(
    key: str, value: Any, above: dict[str, str], boxes: tuple[str, ...], at: str
) -> None:
    for name in edges(value):
        if name not in above:
            raise RecipeError(
                f"{at}: {key} is {name!r}, not a step above{did_you_mean(str(name), above)}"
            )
        if boxes and above[name] not in boxes:
            right = [n for n, stage in above.items() if stage in boxes]
            raise RecipeError(
                f"{at}: {key} is {name!r}, which uses {above[name]}; it takes a step that uses "
                f"{' or '.join(boxes)}" + (f", such as {right[-1]}" if right else "")
            )


def edges(value: Any) -> list[str]:
    """The step names in an input value: a name, a list of names or a mapping to names."""
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list) else [value]


def annotation(module: ModuleType, parameter: str) -> Any:
    """What a box's `run` says of an input."""
    return inspect.signature(module.run, eval_str=True).parameters[parameter].annotation


def shapes(annotation: Any) -> set[Any]:
    """How an input may be given: {dict} for a mapping of names to steps, {None} for one step, or both."""
    options = get_args(annotation) if isinstance(annotation, UnionType) else [annotation]
    return {dict if get_origin(o) is dict else None for o in options if o is not NoneType}


def makers(module: ModuleType, parameter: str) -> tuple[str, ...]:
    """The boxes whose steps an input takes, as its annotation says: `Annotated[Artifact, "train"]`.

    Empty where it says nothing: any step.
    """

    def said(annotation: Any) -> Iterator[str]:
        yield from getattr(annotation, "__metadata__", ())
        for inner in get_args(annotation):
            if not isinstance(inner, str):
                yield from said(inner)

    return tuple(said(annotation(module, parameter)))


@cache
def inputs_of(module: ModuleType) -> dict[str, bool]:
    """The inputs of a box: parameter name -> whether it must be given."""
    parameters = inspect.signature(module.run).parameters.values()
    return {p.name: p.default is p.empty for p in parameters if p.name not in _NOT_INPUTS}


def stages() -> list[str]:
    """The boxes there are: the modules directly in `pipeline/`."""
    return sorted(p.stem for p in BOXES.glob("*.py") if not p.stem.startswith("_"))


def box(stage: str, where: str = "recipe") -> ModuleType:
    """The module of a box; RecipeError with a near miss when there is none."""
    if stage not in stages():
        raise RecipeError(f"{where}: no box {stage!r}{did_you_mean(stage, stages())}")
    return importlib.import_module(f"pipeline.{stage}")
