"""Calls written together: any order of coming and going gives what transformers says of each alone;
slots, the queue, failures and the end."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM

from pipeline.model.architectures import build
from pipeline.model.batching import Batching
from pipeline.model.engine import Full, Load, Piece, Sampling
from pipeline.model.slots import Slots
from tests.pipeline.model.asking import stream, tokens
from tests.tiny import tiny_model_folder, tiny_tokenizer

GREEDY = Sampling(max_tokens=12, temperature=0)
LONG = Sampling(max_tokens=100, temperature=1, seed=0, logit_bias=dict.fromkeys(range(7), -100.0))
"""Writes until it is stopped: sentinels are out of its reach."""
BUSY = pytest.mark.usefixtures("one_thread")
RNG = np.random.default_rng(0)
TEXTS = [RNG.integers(7, 300, n).tolist() for n in (1, 3, 20, 37, 60)]
TEXTS += [TEXTS[4][:40] + TEXTS[2], TEXTS[4][:40]]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Batching]:
    torch.set_num_threads(1)
    folder = tiny_model_folder(tmp_path_factory.mktemp("model"))
    with closing(Batching(folder, slots=3, queue=4, read=16)) as engine:
        yield engine


@pytest.fixture(scope="module")
def alone(engine: Batching) -> list[list[int]]:
    return [generated(engine.model, ids, engine._voice.stops) for ids in TEXTS]


def generated(model: Any, ids: list[int], stops: frozenset[int], count: int = 12) -> list[int]:
    """What transformers' own greedy `generate` says."""
    out = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=sorted(stops),
        pad_token_id=0,
    )
    return [t for t in out[0, len(ids) :].tolist() if t not in stops]


def idle(engine: Batching) -> Load:
    """The load once nothing runs."""
    for _ in range(200):
        if engine.load()[:2] == (0, 0):
            break
        time.sleep(0.02)
    return engine.load()


def idle_now(engine: Batching) -> bool:
    return engine.load()[:2] == (0, 0)


@pytest.mark.parametrize(
    "name", ["snowcoder-tiny", "codegen25-tiny", "codeshell-tiny", "phi1-tiny", "crystal-tiny"]
)
@BUSY
def test_every_architecture_says_what_transformers_says(name: str, tmp_path: Path) -> None:
    size = tiny_tokenizer(tmp_path / "tokenizer.json").get_vocab_size()
    build(name, size, 128, 0).save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    with closing(Batching(tmp_path, slots=2, read=16)) as engine:
        got = engine.complete(TEXTS, GREEDY)
        for ids, c in zip(TEXTS, got, strict=True):
            want = generated(plain, ids, engine._voice.stops)
            assert c.tokens == want[: len(c.tokens)]
            assert len(c.tokens) == len(want)


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(0, len(TEXTS) - 1), st.integers(0, 20), st.booleans()),
        min_size=1,
        max_size=7,
    )
)
@BUSY
def test_any_coming_and_going_changes_nobodys_answer(
    engine: Batching, alone: list[list[int]], schedule: list[tuple[int, int, bool]]
) -> None:
    """schedule: which text; pieces until it is cancelled (0: never); whether the next waits for it."""

    def ask(text: int, after: int) -> tuple[list[int], list[int], str | None]:
        pieces = stream(engine, TEXTS[text], GREEDY, after=after or 10**9)
        return tokens(pieces), alone[text], pieces[-1].finish_reason

    with ThreadPoolExecutor(7) as pool:
        calls = []
        for text, after, wait in schedule:
            calls.append(pool.submit(ask, text, after))
            if wait:
                calls[-1].result()
        for call in calls:
            got, want, reason = call.result()
            assert got == (want if reason != "cancelled" else want[: len(got)])
    assert idle(engine) == Load(0, 0, 3, 4)


@BUSY
def test_what_is_sampled_does_not_depend_on_the_company(engine: Batching) -> None:
    kinds = [LONG, replace(LONG, top_k=9, seed=5), replace(LONG, top_p=0.7, temperature=1.5)]
    kinds = [replace(s, max_tokens=15) for s in kinds]
    single = [tokens(stream(engine, TEXTS[3], s, sample=4)) for s in kinds]
    with ThreadPoolExecutor(3) as pool:
        got = list(pool.map(lambda s: tokens(stream(engine, TEXTS[3], s, sample=4)), kinds))
    assert got == single
    assert [tokens(stream(engine, TEXTS[3], s, sample=5)) for s in kinds] != single


@BUSY
def test_a_prompt_that_begins_alike_is_read_once(engine: Batching) -> None:
    base = RNG.integers(7, 300, 50).tolist()
    first = stream(engine, base, GREEDY)
    assert first[0].cached_tokens == 0
    for more in ([], [8], [8, 9, 10]):  # an editor's keystrokes
        ids = base + more
        got = stream(engine, ids, GREEDY)
        assert got[0].cached_tokens >= len(base) - 1
        assert tokens(got) == generated(engine.model, ids, engine._voice.stops)
    cut = base[:30] + [11] * 10
    got = stream(engine, cut, GREEDY)
    assert got[0].cached_tokens == 30
    assert tokens(got) == generated(engine.model, cut, engine._voice.stops)


@BUSY
def test_equal_prompts_at_once_are_read_once(
    engine: Batching, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    run = engine._network.run
    monkeypatch.setattr(
        engine._network,
        "run",
        lambda s, parts: (read.extend(len(p.ids) for p in parts), run(s, parts))[1],
    )
    ids = RNG.integers(7, 300, 70).tolist()
    got = engine.complete([ids] * 6, replace(GREEDY, max_tokens=2))
    assert len({tuple(c.tokens) for c in got}) == 1
    assert sum(read) < 2 * len(ids)


@BUSY
def test_scores_of_a_prompt_are_a_plain_forwards(engine: Batching) -> None:
    for ids in TEXTS:
        asked = replace(GREEDY, max_tokens=0, prompt_logprobs=True, top_logprobs=3)
        (piece,) = stream(engine, ids, asked)
        assert piece.finish_reason == "length"
        assert piece.prompt is not None
        logprobs, top = piece.prompt
        assert (logprobs[0], top[0]) == (None, None)
        want = engine.model(torch.tensor([ids])).logits.detach().log_softmax(-1)[0]
        for t, (got, best) in enumerate(zip(logprobs[1:], top[1:], strict=True)):
            assert got == pytest.approx(float(want[t, ids[t + 1]]), abs=1e-4)
            assert best is not None
            assert list(best.values()) == pytest.approx(want[t].topk(3).values.tolist(), abs=1e-4)
        with_text = stream(engine, ids, replace(asked, max_tokens=2))
        assert with_text[0].prompt is not None
        assert with_text[0].prompt.logprobs[1:] == pytest.approx(logprobs[1:], abs=1e-4)


@BUSY
def test_alternatives_of_each_token(engine: Batching) -> None:
    pieces = stream(engine, TEXTS[3], replace(LONG, max_tokens=6, top_logprobs=2))
    found, tops = tokens(pieces), [t for p in pieces for t in p.top]
    scores = [x for p in pieces for x in p.logprobs]
    ids = TEXTS[3] + found
    want = engine.model(torch.tensor([ids])).logits.detach().log_softmax(-1)[0]
    for k, (token, score, top) in enumerate(zip(found, scores, tops, strict=True)):
        row = want[len(TEXTS[3]) + k - 1]
        assert score == pytest.approx(float(row[token]), abs=1e-4)
        assert list(top.values()) == pytest.approx(row.topk(2).values.tolist(), abs=1e-4)


@BUSY
def test_a_penalty_counts_what_was_generated_alone(engine: Batching) -> None:
    free = tokens(stream(engine, TEXTS[4], GREEDY))
    assert len(set(free)) < len(free)  # a random model repeats itself
    hard = replace(LONG, temperature=0, max_tokens=30, frequency_penalty=2, presence_penalty=2)
    ids, got = list(TEXTS[4]), tokens(stream(engine, TEXTS[4], hard))
    for k, token in enumerate(got):
        row = engine.model(torch.tensor([ids])).logits.detach()[0, -1]
        row[:7] -= 100
        for t in set(got[:k]):
            row[t] -= 2 + 2 * got[:k].count(t)
        assert float(row.max() - row[token]) < 1e-3
        ids.append(token)


@BUSY
def test_time_is_up(engine: Batching) -> None:
    pieces = stream(engine, TEXTS[1], replace(LONG, seconds=0))
    assert (len(tokens(pieces)), pieces[-1].finish_reason) == (1, "length")
    assert len(tokens(stream(engine, TEXTS[1], replace(LONG, seconds=60, max_tokens=9)))) == 9


@BUSY
def test_a_queue_has_an_end_and_cancelling_makes_room(engine: Batching) -> None:
    idle(engine)
    ended = threading.Semaphore(0)

    def tell(what: Piece | Exception) -> None:
        assert isinstance(what, Piece)
        if what.finish_reason:
            ended.release()

    stuck = threading.Event()
    calls = [engine.submit(TEXTS[1], LONG, lambda what: (stuck.wait(10), tell(what))[1])]
    while engine.load().running == 0:
        time.sleep(0.01)
    calls += [engine.submit(TEXTS[1], LONG, tell, i) for i in range(6)]
    assert engine.load() == Load(1, 6, 3, 4)
    with pytest.raises(Full, match="4 completions wait"):
        engine.submit(TEXTS[1], LONG, tell)
    for call in calls:
        call.cancel()
        call.cancel()
    stuck.set()
    for _ in calls:
        assert ended.acquire(timeout=20)
    assert idle(engine) == Load(0, 0, 3, 4)
    for call in calls:
        call.cancel()
    assert tokens(stream(engine, TEXTS[1], replace(LONG, max_tokens=3)))


@BUSY
def test_whoever_leaves_the_end_of_the_queue_makes_room(tmp_path: Path) -> None:
    with closing(Batching(tiny_model_folder(tmp_path), slots=1, queue=4)) as engine:
        calls = [engine.submit(TEXTS[1], LONG, lambda _: None)]
        while engine.load().running == 0:
            time.sleep(0.01)
        engine._step = lambda _: time.sleep(0.01)  # type: ignore[method-assign,assignment]
        calls += [engine.submit(TEXTS[1], LONG, lambda _: None) for _ in range(4)]
        for call in calls[-2:]:
            call.cancel()
        for _ in range(200):
            if engine.load().waiting == 2:
                break
            time.sleep(0.01)
        assert engine.load().waiting == 2


@BUSY
def test_more_slots_than_tokens_read_at_once_are_used(tmp_path: Path) -> None:
    most = 0
    with closing(Batching(tiny_model_folder(tmp_path), slots=6, read=3)) as engine:

        def tell(_: Piece | Exception) -> None:
            nonlocal most
            most = max(most, len(engine._slots.active))

        calls = [engine.submit([9], LONG, tell, i) for i in range(6)]
        for _ in range(200):
            if most == 6 or idle_now(engine):
                break
            time.sleep(0.01)
        for call in calls:
            call.cancel()
    assert most == 6


def test_a_copy_that_fails_leaves_nothing_known(engine: Batching) -> None:
    def broken(source: int, to: int, places: int) -> None:
        raise MemoryError("in the middle")

    slots = Slots(2, broken)
    slots.all[0].tokens, slots.all[1].tokens = TEXTS[4][:], TEXTS[3][:]
    slots.all[0].used = 1
    call = engine._call([*TEXTS[4][:20], 8], GREEDY, lambda _: None, 0)
    with pytest.raises(MemoryError):
        slots.take(call)
    assert [s.tokens for s in slots.all] == [TEXTS[4], []]


@BUSY
def test_a_failing_step_fails_its_calls_and_nobody_elses(
    engine: Batching, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(engine._network, "run", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.complete(TEXTS[:2], GREEDY)
    assert idle(engine) == Load(0, 0, 3, 4)
    assert tokens(stream(engine, TEXTS[2], GREEDY)) == generated(
        engine.model, TEXTS[2], engine._voice.stops
    )


@BUSY
def test_a_caller_that_fails_harms_nobody_else(engine: Batching, alone: list[list[int]]) -> None:
    def broken(_: Piece | Exception) -> None:
        raise OSError("gone")

    engine.submit(TEXTS[3], LONG, broken)
    assert tokens(stream(engine, TEXTS[2], GREEDY)) == alone[2]
    assert idle(engine) == Load(0, 0, 3, 4)


@BUSY
def test_what_does_not_fit_is_refused_at_once(engine: Batching) -> None:
    for ids, says in (([], "at least one token"), ([9] * 128, "context is 128"), ([999], "not in")):
        with pytest.raises(ValueError, match=says):
            engine.submit(ids, GREEDY, lambda _: None)
    with pytest.raises(ValueError, match="not in the vocabulary"):
        engine.submit([9], Sampling(logit_bias={9999: 1}), lambda _: None)


@BUSY
def test_closing_ends_all_there_is(tmp_path: Path) -> None:
    engine = Batching(tiny_model_folder(tmp_path), slots=1)
    told: list[Sequence[str | None]] = [[], []]

    def hear(row: int, what: Piece | Exception) -> None:
        assert isinstance(what, Piece)
        told[row] = [*told[row], what.finish_reason]

    for row in (0, 1):
        engine.submit(TEXTS[1], LONG, lambda what, row=row: hear(row, what))  # type: ignore[misc]
    engine.close()
    engine.close()
    assert [pieces[-1] for pieces in told] == ["cancelled"] * 2
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit(TEXTS[1], GREEDY, lambda _: None)
    with pytest.raises(RuntimeError, match="stopped"):
        engine.logprobs([TEXTS[1]])


@BUSY
def test_two_models_side_by_side_take_turns(engine: Batching, tmp_path: Path) -> None:
    with (
        closing(Batching(tiny_model_folder(tmp_path, seed=1))) as other,
        ThreadPoolExecutor(2) as pool,
    ):
        alone = [e.complete(TEXTS, GREEDY) for e in (engine, other)]
        both = list(pool.map(lambda e: e.complete(TEXTS, GREEDY), (engine, other)))
    assert [[c.tokens for c in one] for one in both] == [[c.tokens for c in one] for one in alone]


@BUSY
def test_eight_bits_are_near(engine: Batching, tmp_path: Path) -> None:
    with closing(Batching(tiny_model_folder(tmp_path), precision="int8")) as small:
        exact, near = engine.logprobs(TEXTS), small.logprobs(TEXTS)
        far = np.concatenate([a - b for a, b in zip(exact, near, strict=True)])
        assert 0 < np.abs(far).mean() < 0.3


def test_a_model_with_a_state_of_its_own_is_refused(tmp_path: Path) -> None:
    size = tiny_tokenizer(tmp_path / "tokenizer.json").get_vocab_size()
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "state_size": 4}
    MambaForCausalLM(MambaConfig(vocab_size=size, **shape)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'mamba'"):
        Batching(tmp_path)


@BUSY
def test_a_sliding_window_is_the_context(tmp_path: Path) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    size = tiny_tokenizer(tmp_path / "tokenizer.json").get_vocab_size()
    cfg = MistralConfig(
        vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=24, max_position_embeddings=128,
    )  # fmt: skip
    MistralForCausalLM(cfg).save_pretrained(tmp_path)
    with closing(Batching(tmp_path)) as engine:
        assert engine.context == 24
        plain = AutoModelForCausalLM.from_pretrained(tmp_path)
        (got,) = engine.complete(TEXTS[1:2], GREEDY)
        assert got.tokens == generated(plain, TEXTS[1], engine._voice.stops)
