"""What the tests of engines share: a call heard to its end."""

from queue import SimpleQueue

from pipeline.model.engine import Engine, Piece, Sampling


def stream(
    engine: Engine, ids: list[int], sampling: Sampling, sample: int = 0, after: int = 10**9
) -> list[Piece]:
    """All pieces of a call, cancelled once it has told `after` of them."""
    told: SimpleQueue[Piece | Exception] = SimpleQueue()
    call = engine.submit(ids, sampling, told.put, sample)
    pieces = []
    while not (pieces and pieces[-1].finish_reason):
        what = told.get(timeout=60)
        assert isinstance(what, Piece), what
        pieces.append(what)
        if len(pieces) >= after:
            call.cancel()
    return pieces


def tokens(pieces: list[Piece]) -> list[int]:
    return [t for p in pieces for t in p.tokens]
