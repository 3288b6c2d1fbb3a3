"""What this machine can do, in the words of `icefloe doctor`."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from cluster.start import describe
from pipeline.core.sandbox import tier


def checks() -> dict[str, Any]:
    """Cores, memory, GPUs, versions, disk, sandbox tier, optional engines, the Ray token's mode."""
    found = tier()
    engines = [n for n in ("vllm", "kenlm", "gigatoken", "sklearn") if importlib.util.find_spec(n)]
    facts = describe()
    return {
        **facts,
        "memory": f"{facts['memory'] / 2**30:.1f} GiB",
        "gpus": facts["gpus"] or "none",
        "disk_free_gb": round(shutil.disk_usage(".").free / 1e9, 1),
        "sandbox": f"{found.name} ({found.reason})",
        "optional_engines": engines or "none",
        "ray_token": _token(Path("~/.ray/auth_token").expanduser()),
    }


def _token(path: Path) -> str:
    if not path.exists():
        return "none on disk"
    loose = path.stat().st_mode & 0o077
    return f"{path} is readable by others: chmod 600 it" if loose else f"{path}, private"
