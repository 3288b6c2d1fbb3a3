"""Recipes: what is accepted, and that every mistake is named with the next action."""

from pathlib import Path

import pytest

from pipeline.core import recipe
from pipeline.core.errors import RecipeError
from tests.running import recipe_file

STEPS = {
    "raw": {"use": "ingest", "source": "somewhere"},
    "clean": {"use": "filter", "files": "raw"},
    "unique": {"use": "dedup", "files": "clean", "threshold": 0.7},
}


def load(tmp_path: Path, steps: dict, *overrides: str) -> recipe.Recipe:
    return recipe.load(recipe_file(tmp_path / "r.yaml", steps), (), overrides)


def test_a_step_has_its_box_settings_and_inputs(tmp_path: Path) -> None:
    step = load(tmp_path, STEPS).step("unique")
    assert (step.stage, step.inputs, step.cfg.threshold) == ("dedup", {"files": "clean"}, 0.7)


@pytest.mark.parametrize(
    ("step", "change", "message"),
    [
        (
            "unique",
            {"treshold": 0.7},
            "step unique: no setting 'treshold'; did you mean 'threshold'?",
        ),
        ("unique", {"threshold": "many"}, "step unique: threshold is 'many': "),
        ("unique", {"threshold": True}, "step unique: threshold is true: a number is wanted"),
        ("unique", {"files": "claen"}, "files is 'claen', not a step above; did you mean 'clean'?"),
        ("unique", {"use": "dedupe"}, "no box 'dedupe'; did you mean 'dedup'?"),
        ("unique", {"on": {"worker": 2}}, "on: no setting 'worker'; did you mean 'workers'?"),
        ("clean", {"files": "unique"}, "files is 'unique', not a step above"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, step: str, change: dict, message: str) -> None:
    steps = STEPS | {step: STEPS[step] | change}
    with pytest.raises(RecipeError) as e:
        load(tmp_path, steps)
    assert message in str(e.value)
    assert "r.yaml" in str(e.value)


def test_a_missing_input_or_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="files is required: the name of a step above"):
        load(tmp_path, STEPS | {"unique": {"use": "dedup"}})
    with pytest.raises(RecipeError, match="source is required"):
        load(tmp_path, {"raw": {"use": "ingest"}})


def test_overrides_change_one_setting_and_are_checked(tmp_path: Path) -> None:
    assert load(tmp_path, STEPS, "unique.threshold=0.8").step("unique").cfg.threshold == 0.8
    for text, message in (
        ("uniqe.threshold=1", "did you mean 'unique'"),
        ("threshold", "step.key=value"),
    ):
        with pytest.raises(RecipeError, match=message):
            load(tmp_path, STEPS, text)


def test_overlays_change_boxes_and_steps_and_are_checked(tmp_path: Path) -> None:
    base = recipe_file(tmp_path / "r.yaml", STEPS)
    overlay = tmp_path / "o.yaml"
    overlay.write_text("boxes: {dedup: {ngram: 4}}\nsteps: {clean: {limits: {max_line: 10}}}\n")
    made = recipe.load(base, [str(overlay)])
    assert (made.step("unique").cfg.ngram, made.step("clean").cfg.limits) == (4, {"max_line": 10})
    overlay.write_text("steps: {claen: {limits: {max_line: 10}}}\n")
    with pytest.raises(RecipeError, match="did you mean 'clean'"):
        recipe.load(base, [str(overlay)])


@pytest.mark.parametrize(
    "text",
    [
        *("steps: [a]", "stepz: {}", "- 1", "steps: {raw: ingest}", "steps: {a: {"),
        *("steps:\n  ? [a, b]\n  : {use: ingest}", "steps: {1: {use: ingest, source: x}}"),
    ],
)
def test_a_file_that_is_no_recipe_says_so(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"r\.yaml"):
        recipe.load(str(tmp_path / "r.yaml"))


def test_an_override_of_what_is_no_step_names_the_step(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"step raw: a step reads \{use"):
        load(tmp_path, {"raw": "ingest"}, "raw.source=x")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("raw.on.workers=-1", "workers is -1; 0 or more"),
        ("raw.on.processes=0", "processes is 0; it must be at least 1"),
        ("raw.on.processes=[4,2]", r"processes is \[4, 2\]; it must be .*the fewest, the most"),
        ("raw.shard_bytes='9e999G'", "shard_bytes is '9e999G': input should be a valid integer"),
    ],
)
def test_numbers_that_cannot_be_are_named(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(tmp_path, STEPS, override)


def test_an_unknown_recipe_has_a_near_miss() -> None:
    with pytest.raises(RecipeError, match="did you mean 'snowcoder'"):
        recipe.load("snowcodr")


@pytest.mark.parametrize(
    "name", [p.stem for p in recipe.RECIPES.glob("*.yaml") if p.stem != "laptop"]
)
def test_shipped_recipes_are_whole(name: str) -> None:
    assert recipe.load(name).steps[-1].stage == "export"


def test_the_laptop_overlay_fits_snowcoder() -> None:
    assert len(recipe.load("snowcoder", ["laptop"]).steps) == len(recipe.load("snowcoder").steps)


def test_a_key_written_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("steps:\n  raw: {use: ingest, source: a}\n  raw: {use: ingest, source: b}\n")
    with pytest.raises(RecipeError, match=r"'raw' is written twice[\s\S]*line 3"):
        recipe.load(str(path))


@pytest.mark.parametrize("text", ["steps: [raw]", "steps: {raw: 3}", "boxes: {filter: [1]}"])
def test_an_overlay_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    overlay = tmp_path / "over.yaml"
    overlay.write_text(text)
    with pytest.raises(RecipeError, match="is no mapping of settings"):
        recipe.load(recipe_file(tmp_path / "r.yaml", STEPS), [str(overlay)])


def test_a_list_where_one_step_is_needed_is_refused(tmp_path: Path) -> None:
    steps = STEPS | {"unique": {"use": "dedup", "files": ["clean"]}}
    with pytest.raises(RecipeError, match="takes the name of one step"):
        load(tmp_path, steps)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "tokens.tokenizer=raw",
            "'raw', which uses ingest; it takes a step that uses tokenizer, such as vocab",
        ),
        (
            "phase1.data=tokens",
            "which uses tokenize; it takes a step that uses pack, such as batches1",
        ),
        ("phase2.start=batches1", "it takes a step that uses train, such as phase1"),
        ("scores.models={final: vocab}", "it takes a step that uses train, such as phase3"),
        ("scores.models=phase1", "it takes a mapping such as {name: step}"),
    ],
)
def test_a_step_of_another_kind_is_refused_before_anything_runs(
    override: str, message: str
) -> None:
    with pytest.raises(RecipeError) as error:
        recipe.load("snowcoder", [], [override])
    assert message in str(error.value)
