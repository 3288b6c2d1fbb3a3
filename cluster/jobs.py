"""A recipe as a Ray job: this repository is the working directory, the command line the entrypoint.

Knows nothing of what the command does; the cluster's image has the libraries.
"""

import asyncio
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.start import setup_env
from pipeline.core.errors import RecipeError, StageError

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]
EXCLUDES = ["/.git", "/.venv", "/store", "/tests", "/k8s", "__pycache__", "*.egg-info", ".*_cache"]
"""What of the repository stays here."""
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "TOKENIZERS_PARALLELISM": "false"}


def submit(args: Sequence[str], address: str, follow: bool = False) -> str:
    """Start `icefloe run ARGS` on the cluster whose dashboard is at `address`; returns its id.

    follow: write its log to stdout until it ends. Raises RecipeError for a store that only the
    job's own scratch folder would hold, StageError when the cluster does not answer.
    """
    if "--store" in args:
        _require_shared(args[list(args).index("--store") + 1])
    return submit_command(["python", "-m", "cluster.cli", "run", *args], address, follow)


def _require_shared(store: str) -> None:
    if "://" not in store and not Path(store).is_absolute():
        raise RecipeError(
            f"--store {store} would lie in the job's scratch folder and go with it: give a URI "
            "(s3://bucket/store) or an absolute path that every node sees"
        )


def submit_command(command: Sequence[str], address: str, follow: bool = False) -> str:
    """Start `command` in the repository's folder on the cluster; returns the job's id."""
    client = _client(address)
    runtime = {"working_dir": str(ROOT), "excludes": EXCLUDES, "env_vars": ENVIRONMENT}
    job = str(client.submit_job(entrypoint=shlex.join(command), runtime_env=runtime))
    log.info("%s runs at %s", job, address)
    if follow:
        asyncio.run(_follow(client, job))
    return job


async def _follow(client: Any, job: str) -> None:
    async for text in client.tail_job_logs(job):
        sys.stdout.write(text)
        sys.stdout.flush()


def status(job: str, address: str) -> str:
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED. StageError when there is no such job."""
    try:
        return str(_client(address).get_job_status(job).value)
    except RuntimeError as e:
        raise StageError(f"no job {job} at {address}: {e}") from e


def stop(job: str, address: str) -> bool:
    """End a job; False when it had ended already. StageError when there is no such job."""
    try:
        return bool(_client(address).stop_job(job))
    except RuntimeError as e:
        raise StageError(f"no job {job} at {address}: {e}") from e


def _client(address: str) -> Any:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        if os.environ.get(name, address) != address:
            raise RecipeError(
                f"{name} is {os.environ[name]}, which Ray puts before {address}: unset it"
            )
    setup_env(local=False)
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, RayError) as e:  # RayError: the token is not the one
        raise StageError(
            f"no Ray dashboard answers at {address}: {str(e).splitlines()[0].rstrip('.')}. Is it "
            "reachable from here, and is its token in RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH?"
        ) from e
