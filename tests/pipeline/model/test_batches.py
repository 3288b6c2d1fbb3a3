"""A batch is a function of its step alone: every token once, in order, exact labels."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core.errors import StageError
from pipeline.core.schema import END, FILE_SEP, FIM_PAD, FIM_PREFIX
from pipeline.kernels.corruption import mend
from pipeline.kernels.infilling import restore
from pipeline.model.batches import Batches
from pipeline.model.bits import IGNORED
from tests.packed import LENGTH, batches, packed


def one(index: dict[str, list[object]], tmp_path: Path, length: int = 8, **more: bool) -> Batches:
    (tmp_path / "a.u32").write_bytes(np.arange(100, 120, dtype="<u4").tobytes())
    index = {"masked": [0] * len(index["uid"]), "spans": [0] * len(index["uid"])} | index
    return Batches(pa.table(index), [tmp_path / "a.u32"], length, 1, seed=0, spm_rate=0.5, **more)


def test_pieces_end_tokens_and_padding_are_where_the_index_says(tmp_path: Path) -> None:
    index = {"sequence": [0, 0], "uid": ["a", "b"], "shard": [0, 0], "start": [3, 10]}
    index |= {"length": [2, 3], "infill": [False, False], "end": [END, -1]}
    ids, labels, documents = one(index, tmp_path).batch(0)
    assert documents is None
    assert ids.tolist() == [[103, 104, END, 110, 111, 112, FIM_PAD, FIM_PAD]]
    assert labels.tolist() == [[103, 104, END, 110, 111, 112, IGNORED, IGNORED]]


@pytest.mark.parametrize(
    ("start", "end", "numbers"),
    [
        ([3, 10], [END, -1], [0, 0, 0, 1, 1, 1, -1, -1]),
        ([3, 10], [-1, -1], [0, 0, 1, 1, 1, -1, -1, -1]),
        ([3, 5], [-1, END], [0, 0, 0, 0, 0, 0, -1, -1]),  # two parts of one text
        ([3, 5], [END, END], [0, 0, 0, 1, 1, 1, 1, -1]),
        ([3, 10], [FILE_SEP, END], [0, 0, 0, 0, 0, 0, 0, -1]),  # two files of a repository
    ],
)
def test_documents_are_numbered_place_by_place(
    tmp_path: Path, start: list[int], end: list[int], numbers: list[int]
) -> None:
    index = {"sequence": [0, 0], "uid": ["a", "b"], "shard": [0, 0], "start": start}
    index |= {"length": [2, 3], "infill": [False, False], "end": end}
    found = one(index, tmp_path, documents=True).batch(0).documents
    assert found is not None
    assert found.dtype == np.int32
    assert found.tolist() == [numbers]


def test_document_numbers_cover_all_but_the_padding(tmp_path: Path) -> None:
    index, files = packed(tmp_path)
    fed = Batches(index, files, LENGTH, 4, seed=1, spm_rate=0.5, documents=True)
    for step in range(fed.steps):
        ids, _, documents = fed.batch(step)
        assert documents is not None
        assert ((documents < 0) == (ids == FIM_PAD)).all()
        assert set(np.diff(documents, axis=1)[ids[:, 1:] != FIM_PAD].tolist()) <= {0, 1}
        ended = (ids[:, :-1] == END) & (ids[:, 1:] != FIM_PAD)
        assert (np.diff(documents, axis=1)[ended] == 1).all()


@pytest.mark.parametrize("corrupted", [0.0, 0.5])
def test_every_piece_is_there_once_rearranged_or_not(tmp_path: Path, corrupted: float) -> None:
    index, files = packed(tmp_path, corrupt=corrupted)
    fed = Batches(index, files, LENGTH, 4, seed=1, spm_rate=0.5)
    tokens = [np.fromfile(f, "<u2") for f in files]
    infilled = masked = 0
    for step in range(fed.steps):
        ids, labels, _ = fed.batch(step)
        at = [0, 0, 0, 0]
        for piece in fed.pieces(step).to_pylist():
            row, ended = piece["sequence"] - 4 * step, piece["end"] >= 0
            places = piece["length"] + 3 * piece["infill"] + 3 * piece["spans"]
            places += (piece["spans"] > 0) * (1 + ended)  # its end stands before <sep>
            found = ids[row, at[row] : at[row] + places]
            if piece["spans"]:
                found, masked = mend(found)[: piece["length"]], masked + piece["masked"]
                places -= ended
            if piece["infill"]:
                assert found[0] == FIM_PREFIX
                found, infilled = restore(found), infilled + 1
            source = tokens[piece["shard"]][piece["start"] : piece["start"] + piece["length"]]
            assert found.tolist() == source.tolist()
            at[row] += places + ended
        assert at == (ids != FIM_PAD).sum(1).tolist()
        assert ((labels == IGNORED) == (ids == FIM_PAD)).all()
        assert fed.tokens(step) == (labels != IGNORED).sum()
        assert fed.targets(step) == (labels[:, 1:] != IGNORED).sum()
    assert infilled > 10 - 5 * (corrupted > 0)
    assert (masked > 50) == (corrupted > 0)


def test_any_step_any_order_any_process(tmp_path: Path) -> None:
    fed, again = batches(tmp_path), batches(tmp_path)
    ahead = [again.batch(step)[0] for step in reversed(range(again.steps))][::-1]
    for step, expected in enumerate(ahead):
        assert np.array_equal(fed.batch(step)[0], expected)
        parts = [fed.batch(step, rank, 2)[0] for rank in range(2)]
        assert np.array_equal(np.concatenate(parts), expected)


def test_infilling_differs_by_seed_and_by_epoch(tmp_path: Path) -> None:
    index, files = packed(tmp_path)
    sets = [Batches(index, files, LENGTH, 4, seed, 0.5) for seed in (1, 2)]
    assert any(not np.array_equal(sets[0].batch(s)[0], sets[1].batch(s)[0]) for s in range(12))
    twice = {"sequence": [0, 1], "uid": ["a", "a"], "shard": [0, 0], "start": [0, 0]}
    twice |= {"length": [20, 20], "infill": [True, True], "end": [-1, -1]}
    fed = one(twice, tmp_path, length=23)
    assert fed.batch(0)[0].tolist() != fed.batch(1)[0].tolist()


def test_only_whole_batches_are_steps(tmp_path: Path) -> None:
    index, files = packed(tmp_path)
    sequences = index["sequence"][-1].as_py() + 1
    fed = Batches(index, files, LENGTH, 5, seed=1, spm_rate=0.5)
    assert fed.steps == sequences // 5
    with pytest.raises(ValueError, match="step"):
        fed.batch(fed.steps)


def test_a_broken_index_or_file_is_refused(tmp_path: Path) -> None:
    good = {"sequence": [0], "uid": ["a"], "shard": [0], "start": [0]}
    good |= {"length": [8], "infill": [False], "end": [-1]}
    assert one(good, tmp_path).steps == 1
    with pytest.raises(ValueError, match="lacks one"):
        one(good | {"sequence": [1]}, tmp_path)
    with pytest.raises(ValueError, match="9 tokens in an index of length 8"):
        one(good | {"end": [END]}, tmp_path)
    with pytest.raises(StageError, match=r"a\.u32 has 20 tokens, the index needs 23"):
        one(good | {"start": [15]}, tmp_path)
    assert (
        one(
            {k: v[:0] for k, v in good.items()}
            | {k: pa.array([], pa.int64()) for k in ("sequence", "masked", "spans")},
            tmp_path,
        ).steps
        == 0
    )
