"""A combination of fast paths whose measured need is more than a card has free is not tried. The card is two numbers."""

from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from anime_studio.checkpoints.pipeline_files import text_encoder_bytes
from anime_studio.checkpoints.store import Checkpoint
from anime_studio.core.decoders import Decoder
from anime_studio.core.errors import OutOfMemoryError
from anime_studio.core.recipes import DEMO, FASTWAN_3STEP, FASTWAN_VSA_3STEP, TINY_RANDOM, WAN_50STEP
from anime_studio.engine import startup
from anime_studio.engine.acceleration import PLAIN, Acceleration, options_for_capability, packing_for
from anime_studio.engine.card_memory import GIB, CardMemory, needed_bytes
from anime_studio.engine.fallback import Part, PathRefusedError
from anime_studio.telemetry import LogEvent

HOPPER, AMPERE = options_for_capability((9, 0)), options_for_capability((8, 6))


class Loader:
    """Stands for `load_engine`: keeps what is tried, and refuses fused norms if it is told to."""

    def __init__(self, *, refuses_norms: bool = False) -> None:
        self.refuses_norms = refuses_norms
        self.tried: list[Acceleration] = []

    def __call__(self, *_: object, acceleration: Acceleration, **__: object) -> Acceleration:
        self.tried.append(acceleration)
        if self.refuses_norms and acceleration.fused_norms:
            raise PathRefusedError(Part.DECODER, RuntimeError("no kernel image is available"))
        return acceleration


def start_on(
    free_gib: float, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, loader: Loader, **given: object
) -> object:
    """Start `fastwan-3step` on a card of 24 GiB, of which *free_gib* are free; the files are the tiny checkpoint's."""
    card = CardMemory(int(free_gib * GIB), 24 * GIB)
    monkeypatch.setattr(startup, "card_memory", lambda _: card)
    monkeypatch.setattr(startup, "options_for", lambda *_: HOPPER)
    monkeypatch.setattr(startup, "load_engine", loader)
    monkeypatch.setattr(startup, "_warm", lambda engine, **_: engine)
    found = replace(Checkpoint.at(checkpoint), decoder=given.pop("decoder", Decoder.FULL))
    return startup.start_engine(FASTWAN_3STEP, found, device="cpu", **given)  # type: ignore[arg-type]


def gib(options: Acceleration) -> float:
    needed = needed_bytes(FASTWAN_3STEP, Decoder.FULL, options)
    assert needed is not None
    return needed / GIB


def test_each_path_that_is_left_out_changes_the_need_as_it_was_measured():
    assert gib(HOPPER) == pytest.approx(6.40, abs=0.01)
    assert gib(replace(HOPPER, decode_chunk=1)) == pytest.approx(6.40 - 1.34, abs=0.01)
    assert gib(replace(HOPPER, fused_norms=False)) == pytest.approx(6.40 + 8.18, abs=0.01)
    assert gib(AMPERE) == pytest.approx(6.40 + 1.15, abs=0.01), "weights in two bytes"
    assert gib(PLAIN) == pytest.approx(6.40 + 2.74 + 1.15, abs=0.01)


def test_where_nothing_was_measured_nothing_is_refused():
    assert needed_bytes(FASTWAN_3STEP, Decoder.LIGHT, HOPPER) is None
    assert needed_bytes(FASTWAN_3STEP, Decoder.FULL, replace(HOPPER, decode_chunk=4)) is None
    assert all(needed_bytes(recipe, Decoder.FULL, PLAIN) is None for recipe in (DEMO, TINY_RANDOM))
    assert all(needed_bytes(recipe, Decoder.FULL, PLAIN) for recipe in (FASTWAN_VSA_3STEP, WAN_50STEP))


def test_a_card_with_room_takes_every_path(monkeypatch, tiny_checkpoint):
    loader = Loader()

    with capture_logs() as lines:
        start_on(20, tiny_checkpoint, monkeypatch, loader)

    assert loader.tried == [HOPPER] and lines == []


def test_chunks_that_cannot_fit_are_left_out_before_anything_is_loaded(monkeypatch, tiny_checkpoint):
    loader = Loader()

    with capture_logs() as lines:
        start_on(5.5, tiny_checkpoint, monkeypatch, loader)

    assert loader.tried == [replace(HOPPER, decode_chunk=1)]
    (line,) = lines
    assert line["event"] == LogEvent.ENGINE_ACCELERATION_REFUSED and line["without"] == ["decode_chunk"]
    assert "6.4 GiB are needed, and 5.5 are free" in line["detail"]


def test_what_a_refused_path_leaves_is_looked_at_too(monkeypatch, tiny_checkpoint):
    loader = Loader(refuses_norms=True)

    start_on(12, tiny_checkpoint, monkeypatch, loader)

    without_norms = replace(HOPPER, fused_norms=False)
    assert without_norms not in loader.tried, "14.6 GiB"
    assert loader.tried[-1] == replace(without_norms, decode_chunk=1)


def test_a_card_that_holds_no_combination_is_refused_with_what_to_set(monkeypatch, tiny_checkpoint):
    loader = Loader()

    with pytest.raises(OutOfMemoryError) as refused:
        start_on(3, tiny_checkpoint, monkeypatch, loader, text=object())

    assert loader.tried == []
    said = refused.value.detail
    assert "needs 5.1 GiB" in said and "3.0 of 24.0 GiB are free" in said and "text encoder" not in said
    assert "close what else uses it, or set ANIME_STUDIO_DECODER=light" in said


def test_the_text_encoder_counts_where_it_is_on_the_card(monkeypatch, tiny_checkpoint):
    monkeypatch.setattr(startup, "text_encoder_bytes", lambda *_: int(10.6 * GIB))

    with pytest.raises(
        OutOfMemoryError, match=r"needs 15\.7 GiB .*10\.6 of them for the text encoder.*ANIME_STUDIO_TEXT=cpu"
    ):
        start_on(12, tiny_checkpoint, monkeypatch, Loader())

    loader = Loader()
    start_on(12, tiny_checkpoint, monkeypatch, loader, text=object())
    assert loader.tried == [HOPPER]


def test_the_bytes_of_the_text_encoder_come_from_its_files(tiny_checkpoint):
    in_two, in_four = (text_encoder_bytes(tiny_checkpoint, packing_for(kind)) for kind in ("cuda", "cpu"))
    assert 0 < 2 * in_two == in_four


def test_a_smaller_decoder_is_tried_on_a_small_card(monkeypatch, tiny_checkpoint):
    loader = Loader()
    start_on(3, tiny_checkpoint, monkeypatch, loader, decoder=Decoder.LIGHT)
    assert loader.tried == [HOPPER]
