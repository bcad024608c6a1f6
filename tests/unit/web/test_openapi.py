"""The checked-in document is the one the service generates, and it is complete."""

import json
from pathlib import Path

import pytest

from anime_studio.web.openapi import document

CHECKED_IN = Path(__file__).parents[3] / "docs" / "openapi.json"
DOCUMENT = json.loads(document())
OPERATIONS = [
    pytest.param(operation, id=f"{method.upper()} {path}")
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]


def test_the_checked_in_document_is_up_to_date():
    assert CHECKED_IN.read_text(encoding="utf-8") == document(), "run: python -m anime_studio.web.openapi"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_is_described_with_its_errors(operation):
    assert operation["summary"]
    assert operation["description"]
    for parameter in operation.get("parameters", []):
        assert parameter["description"], parameter["name"]
    assert "500" in operation["responses"]
    if "openai" not in operation["tags"]:
        for status, answer in operation["responses"].items():
            if int(status) >= 400:
                assert next(iter(answer["content"])) == "application/problem+json", status
                assert answer["content"].keys() <= {"application/problem+json", "text/html"}, status


def test_operation_ids_are_unique():
    ids = [param.values[0]["operationId"] for param in OPERATIONS]
    assert len(ids) == len(set(ids))


def test_nothing_of_fastapis_own_errors_is_left():
    assert "HTTPValidationError" not in DOCUMENT["components"]["schemas"]
