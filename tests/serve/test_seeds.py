"""Which samples a request draws: its own, or the next of a prompt and seed."""

from serve.seeds import Numbering


def test_a_request_begins_at_nought_and_a_sequence_goes_on() -> None:
    numbering, prompts = Numbering(), [[1, 2], [3]]
    for _ in range(2):
        assert numbering.samples("m", prompts, 2, 7, "request") == [0, 1, 2, 3]
        assert numbering.samples("m", prompts, 2, None, "sequence") == [0, 1, 2, 3]
    assert numbering.samples("m", prompts, 2, 7, "sequence") == [0, 1, 0, 1]
    assert numbering.samples("m", [[3], [3]], 1, 7, "sequence") == [2, 3]
    assert numbering.samples("m", [[3]], 1, 8, "sequence") == [0]
    assert numbering.samples("other", [[3]], 1, 7, "sequence") == [0]


def test_only_the_latest_prompts_are_remembered() -> None:
    numbering = Numbering(kept=2)
    assert [numbering.samples("m", [[k]], 1, 0, "sequence") for k in (1, 2, 3)] == [[0]] * 3
    assert numbering.samples("m", [[3]], 1, 0, "sequence") == [1]
    assert numbering.samples("m", [[1]], 1, 0, "sequence") == [0]
