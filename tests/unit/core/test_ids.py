"""An id is recognised in exactly the form in which it is made."""

import pytest

from anime_studio.core.ids import is_clip_id, is_job_id, new_clip_id, new_job_id


def test_what_is_made_is_recognised_and_never_made_twice():
    job_ids, clip_ids = {new_job_id() for _ in range(100)}, {new_clip_id() for _ in range(100)}

    assert all(map(is_job_id, job_ids)) and all(map(is_clip_id, clip_ids))
    assert (len(job_ids), len(clip_ids)) == (100, 100)


@pytest.mark.parametrize("digits", ["0" * 31, "0" * 33, "0" * 32 + "\n", "A" * 32, ""])
def test_nothing_else_is_an_id(digits):
    assert not is_clip_id(f"c_{digits}")
    assert not is_job_id(f"j_{digits}")


def test_a_clip_id_is_no_job_id():
    assert not is_job_id(new_clip_id())
    assert not is_clip_id(new_job_id())
