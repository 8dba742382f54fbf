"""An S3 store, the corpus on the hub and on S3, and the flags of a run on it."""

import pytest

from tests.helpers.object_store import running_store
from tests.helpers.remote_corpus import corpus_on_s3, corpus_on_the_hub


@pytest.fixture(scope="module")
def hub():
    with corpus_on_the_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def store():
    with running_store() as client:
        yield client


@pytest.fixture(scope="module")
def corpus_store():
    with corpus_on_s3() as client:
        yield client


@pytest.fixture
def flags(tokenizer_models):
    kind, model = tokenizer_models["gpt2"]
    return ["--tokenizer-type", kind, "--tokenizer-model", str(model), "--append-eod", "--max-words", "20"]
