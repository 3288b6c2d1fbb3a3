"""Nobody changes what a box makes without raising its VERSION."""

import json
from pathlib import Path

from tests.golden import RECORDED, digests


def test_each_box_makes_what_is_recorded_for_its_version(tmp_path: Path) -> None:
    recorded, made = json.loads(RECORDED.read_text()), digests(tmp_path)
    for name, digest in made.items():
        stage = name.split("@")[0]
        assert name in recorded, f"VERSION of {stage} was raised: python -m tests.golden"
        assert digest == recorded[name], f"output changed: raise VERSION in pipeline/{stage}.py"
