"""Operations of a token, in both conventions, and utilisation where a peak is known."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.model import flops
from pipeline.model.architectures import ARCHITECTURES


def bare(name: str, vocabulary: int, length: int) -> object:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(ARCHITECTURES[name].config(vocabulary, length))


@pytest.mark.parametrize(
    ("name", "vocabulary", "length", "full", "causal"),
    [
        ("snowcoder-1.3b", 64000, 8192, 13.02, 10.60),
        ("codegen25-7b", 51200, 2048, 43.336, 41.725),
        ("codeshell-7b", 70144, 8192, 63.028, 54.572),
        ("phi1-1.3b", 51200, 2048, 9.085, 8.481),
        ("phi1-350m", 51200, 2048, 2.33, 2.08),
        ("crystal-7b", 32032, 2048, 42.662, 41.051),
    ],
)
def test_the_papers_models(
    name: str, vocabulary: int, length: int, full: float, causal: float
) -> None:
    found = flops.per_token(bare(name, vocabulary, length), length)
    assert found.full / 1e9 == pytest.approx(full, abs=0.006)
    assert found.causal / 1e9 == pytest.approx(causal, abs=0.006)


def test_tables_do_not_multiply_but_tied_heads_do() -> None:
    one = flops.per_token(bare("snowcoder-tiny", 1000, 64), 64).full
    more = flops.per_token(bare("snowcoder-tiny", 2000, 64), 64).full
    untied = [flops.per_token(bare("codegen25-tiny", n, 64), 64).full for n in (1000, 2000)]
    assert more - one == untied[1] - untied[0] == 6 * 1000 * 128


def test_utilisation_where_the_peak_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    model = bare("snowcoder-1.3b", 64000, 8192)
    assert flops.utilisation(model, 8192, torch.device("cpu"))(400.0) == {}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    told = flops.utilisation(model, 8192, torch.device("cuda"))(41_800)
    assert told == {
        "mfu_full": pytest.approx(0.55, abs=5e-4),
        "mfu_causal": pytest.approx(0.4479, abs=5e-4),
    }
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 PCIe")
    assert flops.peak(torch.device("cuda")) == 756e12
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some other card")
    assert flops.peak(torch.device("cuda")) is None
