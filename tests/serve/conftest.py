"""Real tiny models behind the routes, without Ray."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from serve.app import Args, Model, api, load
from serve.state import State
from tests.serve.asking import client_of
from tests.tiny import tiny_annotator_folder, tiny_model_folder


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[State]:
    at = tmp_path_factory.mktemp("models")
    model, annotator = tiny_model_folder(at / "model"), tiny_annotator_folder(at / "annotator")
    state = load(Args(models=[Model(folder=str(model))], annotator=str(annotator), threads=1))
    yield state
    for engine in state.engines.values():
        engine.close()


@pytest.fixture(scope="session")
def client(state: State) -> Iterator[TestClient]:
    with client_of(api(state), raise_server_exceptions=False) as client:
        yield client
