"""A clip's text from the text container: the call that the web container started, and one more if that is lost.

The web container starts text and render at the same moment. While the GPU container wakes, the text is encoded, so it
costs no GPU time. A GPU container that waits reports meanwhile, so a cancel or a deadline ends the job, and it does not
wait longer than `WAIT_S` for each of two calls.

A text container may hold the encoder of other weights, older or newer ones. Its answer names the encoder; a text of
another one is not taken, and the second call asks for the encoder by the revision of the render's weights.

Source of what `FunctionCall.get` raises: `on_modal.call_outcome`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import modal
import structlog

from anime_studio.core.errors import ReportedError, UnavailableError
from anime_studio.engine.text import EncodedText, Waiting
from anime_studio.on_modal.launcher import Method
from anime_studio.telemetry import LogEvent
from common.schemas import ClipSpec, Problem

WAIT_S: Final = 90.0
"""For one call: a start without a snapshot reads 11.4 GB, which takes 57 s at 200 MB/s, a slow day."""
_REPORT_EVERY_S: Final = 1.0

_log = structlog.get_logger(__name__)


class RemoteText:
    """Encodes through the class `TextEncoder`. Satisfies `engine.text.TextSource`.

    Attributes:
        call_id: Of the call that was started for the next clip; None if there is none. A render that Modal runs again
            has the same id, and a result is stored for seven days.
        revision: Of the weights that render; None before they are loaded.
        encoder: Their encoder, as `engine.text.encoder_revision` names it.
    """

    def __init__(
        self, encode: Callable[[], Method], *, max_sequence_length: int, wait_s: float = WAIT_S
    ) -> None:
        """Store what `text_of` needs.

        Args:
            encode: Returns `TextEncoder().encode`; asked after a restore, because a handle holds a connection.
            max_sequence_length: Of the recipe.
            wait_s: How long to wait for one call.
        """
        self.call_id: str | None = None
        self.revision: str | None = None
        self.encoder = ""
        self._encode = encode
        self._max_sequence_length = max_sequence_length
        self._wait_s = wait_s

    def text_of(self, spec: ClipSpec, waiting: Waiting = lambda: None) -> EncodedText:
        """See `TextSource.text_of`.

        Raises:
            UnavailableError: Two calls were lost or took too long; the job may be tried again.
            ReportedError: The text container cannot encode, and says why.
        """
        call_id, self.call_id = self.call_id, None
        try:
            return self._text(self._call(spec, call_id), waiting)
        except (_LostError, ReportedError) as error:
            if isinstance(error, ReportedError) and not error.retryable:
                raise
            _log.warning(LogEvent.TEXT_LOST, detail=str(error))
        try:
            return self._text(self._call(spec, None), waiting)
        except _LostError as error:
            raise UnavailableError(
                f"the text container gave no text, twice ({error}); ask for the clip again"
            ) from error

    def _text(self, call: modal.FunctionCall[Any], waiting: Waiting) -> EncodedText:
        answer = self._answer(call, waiting)
        if "text" in answer:
            if answer.get("encoder") != self.encoder:
                raise _LostError(f"the text is of another encoder than that of {self.revision}")
            return EncodedText.from_bytes(answer["text"], self._max_sequence_length)
        raise ReportedError(Problem.model_validate(answer["problem"]))

    def _call(self, spec: ClipSpec, call_id: str | None) -> modal.FunctionCall[Any]:
        if call_id is not None:
            return modal.FunctionCall.from_id(call_id)
        try:
            return self._encode().spawn(spec.model_dump(mode="json"), self.revision)
        except Exception as error:
            raise _LostError(f"Modal did not take the call: {type(error).__name__}: {error}") from error

    def _answer(self, call: modal.FunctionCall[Any], waiting: Waiting) -> Mapping[str, Any]:
        give_up_at = time.monotonic() + self._wait_s
        while True:
            waiting()
            try:
                answer: Mapping[str, Any] = call.get(timeout=_REPORT_EVERY_S)
            except TimeoutError as error:  # the builtin one: the call is not done
                if time.monotonic() >= give_up_at:
                    raise _LostError(f"nothing came in {self._wait_s:g} s") from error
            except Exception as error:  # whatever ended the call: another one may do better
                raise _LostError(f"{type(error).__name__}: {error}") from error
            else:
                return answer


class _LostError(Exception):
    """A call ended without an answer."""
