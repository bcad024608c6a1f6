"""The contract: what is taken, what is refused, and that every field is described."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

import common.schemas
from common.schemas import (
    PROMPT_MAX_CHARS,
    SEED_MAX,
    ClientSignals,
    GenerateRequest,
    JobState,
    Problem,
    Resolution,
)

MODELS = [
    model
    for model in vars(common.schemas).values()
    if isinstance(model, type)
    and issubclass(model, BaseModel)
    and model.__module__ == "common.schemas"
    and model.model_fields
]


def test_a_prompt_is_enough():
    request = GenerateRequest(prompt="  a cat  ")

    assert (request.prompt, request.duration, request.resolution, request.seed) == (
        "a cat",
        5.0,
        "480p",
        None,
    )


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prompt": ""},
        {"prompt": " \n\t "},
        {"prompt": "x" * (PROMPT_MAX_CHARS + 1)},
        {"prompt": "a\x00b"},
        {"prompt": "a\x1b[31m"},
        {"prompt": "a\x7f"},
        {"prompt": "a\x85b"},
        {"prompt": "a", "negative_prompt": "\x00"},
        {"prompt": "a", "duration": 0},
        {"prompt": "a", "duration": -1},
        {"prompt": "a", "duration": float("inf")},
        {"prompt": "a", "duration": float("nan")},
        {"prompt": "a", "duration": 61},
        {"prompt": "a", "resolution": "720p"},
        {"prompt": "a", "seed": -1},
        {"prompt": "a", "seed": SEED_MAX + 1},
        {"prompt": "a", "seed": 1.5},
        {"prompt": "a", "num_inference_steps": 0},
        {"prompt": "a", "num_inference_steps": 101},
        {"prompt": "a", "guidance_scale": 0.5},
        {"prompt": "a", "deadline_s": 0},
        {"prompt": "a", "channel": "short"},
        {"prompt": "a", "source": "Bot!"},
        {"prompt": "a", "requested_by": "x" * 65},
        {"prompt": "a", "requested_by": "mio\x1b[31m"},
        {"prompt": "a", "queue_depth": -1},
        {"prompt": "a", "output_path": "/etc/passwd"},
    ],
)
def test_what_is_refused(body):
    with pytest.raises(ValidationError):
        GenerateRequest.model_validate(body)


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "x" * PROMPT_MAX_CHARS},
        {"prompt": "two\nlines\tand a tab"},
        {"prompt": "桜 🌸 e\u0301"},
        {"prompt": "a", "seed": 0},
        {"prompt": "a", "seed": SEED_MAX},
        {"prompt": "a", "negative_prompt": ""},
        {"prompt": "a", "resolution": "480p-portrait"},
    ],
)
def test_what_is_taken(body):
    assert GenerateRequest.model_validate(body)


@given(st.text(max_size=PROMPT_MAX_CHARS))
def test_a_prompt_that_is_taken_is_kept_and_survives_json(text):
    try:
        request = GenerateRequest(prompt=text)
    except ValidationError:
        return
    assert request.prompt == text.strip()
    assert GenerateRequest.model_validate_json(request.model_dump_json()) == request


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("mio", "mio"),
        ("  Mio \t Akiyama\n", "Mio Akiyama"),
        ("澪 🌸", "澪 🌸"),
        ("e\u0301va", "\u00e9va"),
        ("\u202eoim", "oim"),
        ("mi\u200bo\U000e0000", "mio"),
        ("👩\u200d🎨", "👩\u200d🎨"),
        ("\u200b \u2060", None),
        ("", None),
        (None, None),
    ],
)
def test_the_name_of_who_asked_has_one_form_on_one_line(sent, kept):
    assert GenerateRequest(prompt="a", requested_by=sent).requested_by == kept


def test_sizes_are_those_the_model_was_trained_at():
    assert Resolution.P480.size == (832, 480)
    assert Resolution.P480_PORTRAIT.size == (480, 832)


def test_three_states_are_final():
    assert {state for state in JobState if state.final} == {"succeeded", "failed", "cancelled"}


def test_an_answer_of_a_newer_server_is_read():
    problem = {
        "type": "/problems/x",
        "title": "x",
        "status": 500,
        "detail": "x",
        "code": "x",
        "retryable": False,
    }
    assert Problem.model_validate(problem | {"invented_later": 1}).code == "x"


def test_signals_are_bounded():
    one = {"kind": "fallback_played", "source": "obs"}
    assert ClientSignals.model_validate({"signals": [one] * 100})
    for bad in (
        [],
        [one] * 101,
        [one | {"kind": "made_up"}],
        [one | {"value": -1}],
        [one | {"detail": "x" * 201}],
    ):
        with pytest.raises(ValidationError):
            ClientSignals.model_validate({"signals": bad})


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_is_described_and_shown(model):
    for name, field in model.model_fields.items():
        assert field.description, f"{model.__name__}.{name} has no description"
        nested = "common.schemas" in str(field.annotation) and not field.examples
        assert field.examples or nested, f"{model.__name__}.{name} has no example"


def test_the_contract_needs_pydantic_and_the_standard_library_only():
    import subprocess
    import sys

    code = (
        "import sys, common.schemas; "
        "print([m for m in ('torch', 'fastapi', 'modal', 'httpx', 'structlog', 'anime_studio') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
