"""How good a model is at code: four measurements, the cheap ones meaningful for tiny models too.

bits a byte of held-out text; loss on the middle of a text with and without what follows it;
how often a right solution is likelier than a wrong one; pass@1 on tasks in HumanEval's form
(Chen et al. 2021, arXiv 2107.03374). Works through the engine's interface; knows nothing of
training.
"""

from __future__ import annotations

import gzip
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa

from pipeline.core import sandbox
from pipeline.core.config import Bytes, config
from pipeline.core.errors import RecipeError, StageError
from pipeline.core.files import Files
from pipeline.core.job import Job
from pipeline.core.runner import Artifact
from pipeline.core.sandbox import Program
from pipeline.core.schema import END, SPECIALS, digest
from pipeline.core.store import sha256_file
from pipeline.core.suites import find
from pipeline.kernels.exercises import exercises
from pipeline.kernels.mutate import mutants
from pipeline.kernels.syntax import documented
from pipeline.model.bits import bits, plain, windows, within
from pipeline.model.separation import wilson

if TYPE_CHECKING:
    from pipeline.model.engine import Engine

log = logging.getLogger(__name__)
VERSION = 2
STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Strings that end a completion (HumanEval: Chen et al. 2021 §2.2)."""
CHARACTERS = 8
"""No text has more of them a token on average: what is further in a text is beyond the context."""
KEYS = ("task_id", "prompt", "canonical_solution", "test", "entry_point")
Task = Mapping[str, str]
"""One task; has all of KEYS."""


@config
class Config:
    suite: str = "icefloe"
    """Tasks in HumanEval's form for ranking and pass@1: a shipped suite or a file (ours)."""
    quality: float = 0.7
    """Held-out texts documented at least this far are the quality slice (ours)."""
    threads: int = 2
    """CPU threads: part of the identity, since sums round differently (ours)."""
    longest: int = 100_000
    """Of each held-out text the first so many characters (ours)."""
    text_bytes: Bytes = 1_000_000
    """Held-out text for bits a byte: whole documents until so many bytes (ours)."""
    middles: int = 200
    """Held-out texts whose middles are measured (ours)."""
    wrong: int = 4
    """Wrong solutions a task in the ranking (ours)."""
    max_tokens: int = 512
    """Longest completion of a task, in tokens (EvoEval's; evalplus has 768)."""
    seconds: float = 5
    """Processor time of one program (human-eval has 3 s by the clock)."""
    seed: int = 0
    """Picks middles and wrong solutions."""


def fingerprint(cfg: Config) -> str:
    return digest(sha256_file(find(cfg.suite, "suite")))


def run(
    models: dict[str, Annotated[Artifact, "train"]], heldout: Files, cfg: Config, job: Job
) -> None:
    from pipeline.model.engine import load

    texts, tasks = slices(heldout, cfg, job), read_tasks(find(cfg.suite, job.step))
    for name, model in models.items():
        with closing(load(model.folder / "model", kind="icefloe", threads=cfg.threads)) as engine:
            measured = measure(engine, texts, tasks, cfg)
        job.facts.setdefault("models", {})[name] = measured
        log.info("%-10s %s: %s", job.step, name, _told(measured))
    job.facts["texts"] = {name: len(found) for name, found in texts.items()}


def slices(heldout: Files, cfg: Config, job: Job) -> dict[str, list[str]]:
    """Held-out texts: `ordinary` ones; the `quality` ones among them, labelled by a rule that knows
    no annotator; `exercises` written from their documented functions. Drawn by document hash."""
    tables = job.collect(heldout, labelled, ["text", "language"], side="heldout")
    rows = [r for t in tables for r in t.to_pylist()]
    rows.sort(key=lambda r: digest(str(cfg.seed), r["uid"]))
    if not rows:
        raise StageError(f"step {job.step}: nothing was held out; raise the holdout step's share")
    good = [r["text"] for r in rows if r["documented"] >= cfg.quality]
    written = [e for r in rows for e in r["exercises"]]
    found = {"ordinary": [r["text"] for r in rows], "quality": good, "exercises": written}
    cut = {name: [t[: cfg.longest] for t in texts] for name, texts in found.items()}
    return {name: within(texts, cfg.text_bytes) for name, texts in cut.items() if texts}


def labelled(table: pa.Table) -> pa.Table:
    """Each text with how far it is documented, and the exercises written from it."""
    told = list(zip(table["text"].to_pylist(), table["language"].to_pylist(), strict=True))
    made = [exercises(text) if language == "Python" else [] for text, language in told]
    return pa.table(
        {
            "uid": table["uid"],
            "text": table["text"],
            "documented": [documented(text, language) for text, language in told],
            "exercises": pa.array(made, pa.list_(pa.large_string())),
        }
    )


def measure(
    engine: Engine, texts: dict[str, list[str]], tasks: Sequence[Task], cfg: Config
) -> dict[str, Any]:
    """All measurements of one model; `middle` is None for a model not trained to infill."""
    middles = texts["ordinary"][: cfg.middles]
    return {
        "bits_per_byte": {name: bits_per_byte(engine, found) for name, found in texts.items()},
        "middle": middle_loss(engine, middles, cfg.seed) if engine.info["infill"] else None,
        "ranking": ranking(engine, tasks, cfg.seed, cfg.wrong),
        "pass_at_1": pass_at_1(engine, tasks, cfg.max_tokens, cfg.seconds),
    }


def _told(measured: dict[str, Any]) -> str:
    bits = ", ".join(f"{name} {value:.3f}" for name, value in measured["bits_per_byte"].items())
    passed = measured["pass_at_1"]
    return f"bits per byte {bits}; pass@1 {passed['passed']}/{passed['tasks']}"


def read_tasks(path: Path) -> list[Task]:
    """The tasks of a JSON Lines file (.gz too); RecipeError for a missing key or a double id."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    tasks = [json.loads(line) for line in raw.decode().split("\n") if line.strip()]
    for i, task in enumerate(tasks):
        if missing := [k for k in KEYS if k not in task]:
            raise RecipeError(f"{path}: task {i + 1} has no {', '.join(missing)}")
    twice = [k for k, n in Counter(t["task_id"] for t in tasks).items() if n > 1]
    if twice:
        raise RecipeError(f"{path}: task ids must differ, these do not: {', '.join(twice)}")
    return tasks


def bits_per_byte(engine: Engine, texts: Sequence[str]) -> float:
    """Negative log2-probability of the texts over their UTF-8 bytes; ValueError if there are none.

    Each text is cut into windows that fill the context; the first token of a window sees only END.
    """
    size = sum(len(t.encode()) for t in texts)
    if size == 0:
        raise ValueError("no text to measure bits per byte on")
    cut = windows(encode(engine, texts), engine.context, end_token(engine))
    nats = -sum(float(w.sum(dtype=np.float64)) for w in engine.logprobs(cut))
    return bits(nats, size)


def encode(engine: Engine, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of plain text; a sentinel spelled out in a text is just text."""
    return [
        e.ids for e in plain(engine.tokenizer).encode_batch(list(texts), add_special_tokens=False)
    ]


def end_token(engine: Engine) -> int:
    found = engine.tokenizer.token_to_id(SPECIALS[END])
    if found is None:
        raise ValueError(f"the tokenizer has no {SPECIALS[END]}")
    return int(found)


def middle_loss(engine: Engine, texts: Sequence[str], seed: int) -> dict[str, float | int]:
    """Mean loss (nats a token) on middles, `with_suffix` and `without_suffix`, of `middles` texts.

    The head of each text that fits the context is cut into prefix, middle and suffix at two random
    line ends; texts of under three lines count for nothing. The same middle tokens follow the
    infill prompt (PSM) and the bare prefix. ValueError if the model was not trained to infill.
    """
    texts = [t[: CHARACTERS * engine.context] for t in texts]
    room = engine.context * 31 // 32 - 8  # three sentinels, and tokens that the cuts take apart
    splits = (cut(lines, seed, i) for i, lines in enumerate(heads(engine, texts, room)))
    parts = [s for s in splits if s]
    if not parts:
        raise ValueError("no text of three lines to measure middles on")
    middles = encode(engine, [middle for _, middle, _ in parts])
    left = [[end_token(engine), *ids] for ids in encode(engine, [p for p, _, _ in parts])]
    both = [engine.prompt(prefix, suffix) for prefix, _, suffix in parts]
    return {
        "with_suffix": mean_loss(engine, both, middles),
        "without_suffix": mean_loss(engine, left, middles),
        "middles": len(parts),
    }


def heads(engine: Engine, texts: Sequence[str], room: int) -> list[list[str]]:
    """Of each text the first lines that have together at most `room` tokens."""
    documents = [t.splitlines(keepends=True) for t in texts]
    sizes = iter([len(ids) for ids in encode(engine, [line for d in documents for line in d])])
    sums = (np.cumsum([next(sizes) for _ in d]) for d in documents)
    return [d[: int((s <= room).sum())] for d, s in zip(documents, sums, strict=True)]


def cut(lines: Sequence[str], seed: int, number: int) -> tuple[str, str, str] | None:
    """Prefix, middle and suffix of a text, none of them empty; None for under three lines."""
    if len(lines) < 3:
        return None
    rng = np.random.Generator(np.random.PCG64([seed, number]))
    a, b = sorted(rng.choice(np.arange(1, len(lines)), 2, replace=False))
    return "".join(lines[:a]), "".join(lines[a:b]), "".join(lines[b:])


def mean_loss(
    engine: Engine, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> float:
    """Mean negative log-probability of a token of the answers, each given its prompt."""
    return -sum(answer_scores(engine, prompts, answers)) / sum(map(len, answers))


def answer_scores(
    engine: Engine, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> list[float]:
    """Log-probability (nats) of each answer given its prompt."""
    found = engine.logprobs([[*p, *a] for p, a in zip(prompts, answers, strict=True)])
    return [
        float(scores[len(p) - 1 :].sum(dtype=np.float64))
        for scores, p in zip(found, prompts, strict=True)
    ]


def ranking(engine: Engine, tasks: Sequence[Task], seed: int, wrong: int = 4) -> dict[str, Any]:
    """How often a right solution has a higher total log-probability than a mutant of it.

    `accuracy` over `pairs` with its 95 % Wilson `interval`; chance is 0.5. One edit leaves the
    length about the same, so sums compare. Pairs of one task go together, so the true interval is
    wider. A prompt loses its beginning where context is short; `too_long` counts the tasks whose
    solution alone does not fit.
    """
    prompts, answers, too_long = [], [], 0
    for task, ids in zip(tasks, encode(engine, [t["prompt"] for t in tasks]), strict=True):
        solutions = encode(engine, [task["canonical_solution"], *others(task, wrong, seed)])
        room = engine.context - max(map(len, solutions))
        too_long += room < 1
        if room >= 1 and len(solutions) > 1:
            prompts.append([end_token(engine), *ids][-room:])
            answers.append(solutions)
    flat = [p for p, s in zip(prompts, answers, strict=True) for _ in s]
    scores = iter(answer_scores(engine, flat, [a for s in answers for a in s]))
    wins: list[bool] = []
    for solutions in answers:
        right, *rest = (next(scores) for _ in solutions)
        wins += [right > other for other in rest]
    return {
        "accuracy": sum(wins) / len(wins) if wins else None,
        "pairs": len(wins),
        "interval": wilson(sum(wins), len(wins)),
        "too_long": too_long,
    }


def others(task: Task, limit: int, seed: int) -> list[str]:
    """Mutants of a task's solution, as what follows its prompt."""
    start = len(task["prompt"])
    source = task["prompt"] + task["canonical_solution"]
    return [m[start:] for m in mutants(source, limit, seed, start)]


def pass_at_1(
    engine: Engine, tasks: Sequence[Task], max_tokens: int = 512, seconds: float = 5
) -> dict[str, Any]:
    """Share of tasks whose greedy completion passes its test in the sandbox of `tier`.

    The prompt's trailing white space is stripped, because tokenizers join a line end to the
    indent after it; the completion ends before the first of STOP. `failures` counts the rest by
    verdict; a prompt as long as the context is "too long". StageError without a sandbox.
    """
    from pipeline.model.engine import Sampling

    prompts = [t["prompt"].rstrip() for t in tasks]
    ids = encode(engine, prompts)
    fits = [i for i, p in enumerate(ids) if len(p) < engine.context]
    sampling = Sampling(max_tokens=max_tokens, temperature=0, stop=STOP, seed=0)
    done = engine.complete([ids[i] for i in fits], sampling)
    programs = [
        Program(prompts[i] + c.text + "\n", tasks[i]["test"], tasks[i]["entry_point"])
        for i, c in zip(fits, done, strict=True)
    ]
    failures = Counter[str](v.status for v in sandbox.run(programs, seconds=seconds))
    failures["too long"] = len(tasks) - len(fits)
    passed = failures.pop("pass", 0)
    return {
        "pass@1": pass_at_k(len(tasks), passed, 1),
        "passed": passed,
        "tasks": len(tasks),
        "interval": wilson(passed, len(tasks)),
        "tier": sandbox.tier().name,
        "failures": {k: n for k, n in sorted(failures.items()) if n},
    }


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that one of `k` samples is right, unbiased, when `c` of `n` were (Chen et al.).

    ValueError unless 0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"{c} right of {n} samples give no pass@{k}: needs 1 <= k <= n")
    if n - c < k:
        return 1.0
    return float(1 - np.prod(1 - k / np.arange(n - c + 1, n + 1)))
