"""A link is what we signed, bit for bit, or it is refused."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anime_studio.core.errors import (
    ClipUrlError,
    ClipUrlExpiredError,
    ClipUrlInvalidError,
    ClipUrlMalformedError,
    ConfigurationError,
)
from anime_studio.core.jobs import Asset
from anime_studio.core.signing import MAX_TTL, MAX_WATCH_TTL, UrlSigner
from anime_studio.settings import Settings

NOW = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)
EXPIRES_AT = NOW + timedelta(minutes=15)
CLIP_ID = "c_0123456789abcdef0123456789abcdef"
OLD, NEW = "old-" + "x" * 32, "new-" + "y" * 32
SIGNER = UrlSigner([OLD])
LONGEST_CLIP_TTL_S = next(
    bound.le for bound in Settings.model_fields["clip_ttl_s"].metadata if hasattr(bound, "le")
)

clip_ids = st.text("0123456789abcdef", min_size=32, max_size=32).map("c_".__add__)
assets = st.sampled_from(Asset)
ttls_s = st.integers(1, int(MAX_TTL.total_seconds()))
keys = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=32, max_size=64)


def query_of(link: str) -> list[tuple[str, str]]:
    return parse_qsl(urlsplit(link).query)


def verify(
    signer: UrlSigner, link: str, asset: Asset = Asset.VIDEO, now: datetime = NOW, clip_id: str = CLIP_ID
):
    return signer.verify(clip_id, asset, query_of(link), now)


@given(clip_ids, assets, ttls_s, st.booleans(), keys)
def test_what_is_signed_verifies(clip_id, asset, ttl_s, download, key):
    signer, expires_at = UrlSigner([key]), NOW + timedelta(seconds=ttl_s)
    link = signer.sign(clip_id, asset, expires_at, download=download)

    found = signer.verify(clip_id, asset, query_of(link), NOW)

    assert (found.clip_id, found.asset, found.expires_at, found.download) == (
        clip_id,
        asset,
        expires_at,
        download,
    )


@given(clip_ids, clip_ids, assets, assets, ttls_s, ttls_s, st.booleans(), st.booleans())
def test_a_signature_opens_exactly_what_it_was_made_for(clip, clip2, asset, asset2, ttl, ttl2, dl, dl2):
    signed = SIGNER.sign(clip, asset, NOW + timedelta(seconds=ttl), download=dl)
    other = dict(query_of(SIGNER.sign(clip2, asset2, NOW + timedelta(seconds=ttl2), download=dl2)))
    forged = list((other | {"signature": dict(query_of(signed))["signature"]}).items())

    if (clip, asset, ttl, dl) == (clip2, asset2, ttl2, dl2):
        SIGNER.verify(clip2, asset2, forged, NOW)
    else:
        with pytest.raises(ClipUrlInvalidError):
            SIGNER.verify(clip2, asset2, forged, NOW)


def flipped_links() -> list[list[tuple[str, str]]]:
    """Every link that differs from a good one in one bit of one value."""
    good = query_of(SIGNER.sign(CLIP_ID, Asset.VIDEO, EXPIRES_AT, download=True))
    links = []
    for at, (name, value) in enumerate(good):
        raw = value.encode()
        for bit in range(8 * len(raw)):
            flipped = bytearray(raw)
            flipped[bit // 8] ^= 1 << bit % 8
            links.append([*good[:at], (name, flipped.decode("latin-1")), *good[at + 1 :]])
    return links


def test_no_flipped_bit_of_the_query_is_accepted():
    links = flipped_links()
    assert len(links) > 400

    for link in links:
        with pytest.raises(ClipUrlError):
            SIGNER.verify(CLIP_ID, Asset.VIDEO, link, NOW)


def test_no_flipped_bit_of_the_clip_id_is_accepted():
    link = SIGNER.sign(CLIP_ID, Asset.VIDEO, EXPIRES_AT)
    for bit in range(8 * len(CLIP_ID)):
        flipped = bytearray(CLIP_ID.encode())
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ClipUrlError):
            verify(SIGNER, link, clip_id=flipped.decode("latin-1"))


def test_a_poster_link_opens_no_film():
    with pytest.raises(ClipUrlInvalidError):
        verify(SIGNER, SIGNER.sign(CLIP_ID, Asset.POSTER, EXPIRES_AT))


@pytest.mark.parametrize(("late_s", "dead"), [(-1, False), (0, True), (1, True)])
def test_a_link_lives_until_its_second_and_no_longer(late_s, dead):
    link, now = SIGNER.sign(CLIP_ID, Asset.VIDEO, EXPIRES_AT), EXPIRES_AT + timedelta(seconds=late_s)

    if dead:
        with pytest.raises(ClipUrlExpiredError, match="GET /jobs"):
            verify(SIGNER, link, now=now)
    else:
        assert verify(SIGNER, link, now=now).expires_at == EXPIRES_AT


def test_an_expired_link_with_a_bad_signature_is_refused_for_its_signature():
    link = SIGNER.sign(CLIP_ID, Asset.VIDEO, EXPIRES_AT).replace("signature=", "signature=A")[:-1]

    with pytest.raises(ClipUrlInvalidError):
        verify(SIGNER, link, now=EXPIRES_AT + timedelta(days=1))


def test_an_absurdly_distant_expiry_is_refused_though_validly_signed():
    link = SIGNER.sign(CLIP_ID, Asset.VIDEO, NOW + MAX_TTL + timedelta(seconds=1))

    with pytest.raises(ClipUrlInvalidError, match="further ahead"):
        verify(SIGNER, link)


def test_the_newest_key_signs_and_all_verify():
    before, both, after = UrlSigner([OLD]), UrlSigner([OLD, NEW]), UrlSigner([NEW])
    made_before = before.sign(CLIP_ID, Asset.VIDEO, EXPIRES_AT)
    made_during = both.sign(CLIP_ID, Asset.VIDEO, EXPIRES_AT)

    assert made_during == after.sign(CLIP_ID, Asset.VIDEO, EXPIRES_AT)
    verify(both, made_before)
    verify(both, made_during)
    verify(after, made_during)
    with pytest.raises(ClipUrlInvalidError):
        verify(after, made_before)


@pytest.mark.parametrize("keys", [[], [""], ["short"], [OLD, "short"]])
def test_no_weak_key_is_taken(keys):
    with pytest.raises(ConfigurationError):
        UrlSigner(keys)


@pytest.mark.parametrize(
    "query",
    [
        [("expires", "-1"), ("signature", "A" * 43)],
        [("expires", "1795464900.0"), ("signature", "A" * 43)],
        [("expires", str(2**63)), ("signature", "A" * 43)],
        [("expires", "0795464900"), ("signature", "A" * 43)],
        [
            ("expires", "\uff11\uff17\uff19\uff15\uff14\uff16\uff14\uff19\uff10\uff10"),
            ("signature", "A" * 43),
        ],
        [("expires", " 1795464900"), ("signature", "A" * 43)],
        [("expires", "1795464900\n"), ("signature", "A" * 43)],
        [("expires", "1795464900"), ("signature", "A" * 42)],
        [("expires", "1795464900"), ("signature", "A" * 43 + "\n")],
        [("expires", "1795464900"), ("signature", "A" * 42 + "+")],
        [("expires", "1795464900"), ("signature", "A" * 43), ("expires", "1795464900")],
        [("expires", "1795464900"), ("signature", "A" * 43), ("dl", "true")],
    ],
)
def test_only_the_form_that_we_sign_is_read(query):
    with pytest.raises(ClipUrlMalformedError):
        SIGNER.verify(CLIP_ID, Asset.VIDEO, query, NOW)


@pytest.mark.parametrize("added", [("fbclid", "x"), ("host", "x"), ("Expires", "1"), ("", "")])
def test_a_parameter_that_is_not_signed_is_ignored(added):
    query = query_of(SIGNER.sign(CLIP_ID, Asset.VIDEO, EXPIRES_AT))

    assert SIGNER.verify(CLIP_ID, Asset.VIDEO, [*query, added, added], NOW).expires_at == EXPIRES_AT


@pytest.mark.parametrize("download", [False, True])
@pytest.mark.parametrize("added", [")", ").", ">", "*", "\u200b", "\U000e0000", "\xa0", "\u202c\u2069"])
def test_what_chat_takes_into_the_links_end_is_ignored(added, download):
    *query, (name, value) = query_of(SIGNER.sign(CLIP_ID, Asset.VIDEO, EXPIRES_AT, download=download))

    link = SIGNER.verify(CLIP_ID, Asset.VIDEO, [*query, (name, value + added)], NOW)

    assert (link.expires_at, link.download) == (EXPIRES_AT, download)


@pytest.mark.parametrize(
    "clip_id", ["", "c_", CLIP_ID + "\n", CLIP_ID.upper(), CLIP_ID + "0", "../" + CLIP_ID, "j" + CLIP_ID[1:]]
)
def test_only_a_clip_id_names_a_clip(clip_id):
    link = SIGNER.sign(CLIP_ID, Asset.VIDEO, EXPIRES_AT)
    with pytest.raises(ClipUrlMalformedError):
        verify(SIGNER, link, clip_id=clip_id)


@given(
    st.lists(
        st.tuples(st.sampled_from(["expires", "signature", "dl", "x"]), st.text(max_size=50)), max_size=5
    )
)
def test_no_query_made_by_others_is_accepted(query):
    with pytest.raises(ClipUrlError):
        SIGNER.verify(CLIP_ID, Asset.VIDEO, query, NOW)


def test_a_link_names_no_host_and_no_secret():
    link = SIGNER.sign(CLIP_ID, Asset.POSTER, EXPIRES_AT)

    assert link.startswith(f"/outputs/{CLIP_ID}/poster?expires=")
    assert OLD not in link


watch_ttls_s = st.integers(1, int(MAX_WATCH_TTL.total_seconds()))


class TestWatchLinks:
    """A watch link is signed like a clip's link, for another meaning."""

    @given(clip_ids, watch_ttls_s, keys)
    def test_what_is_signed_verifies_and_leads_to_both_files(self, clip_id, ttl_s, key):
        signer = UrlSigner([key])
        link = signer.sign_watch(clip_id, NOW + timedelta(seconds=ttl_s))

        for path in (link.path(), *map(link.path, Asset)):
            assert signer.verify_watch(clip_id, query_of(path), NOW) == link
        assert urlsplit(link.path()).path == f"/watch/{clip_id}"
        assert urlsplit(link.path(Asset.POSTER)).path == f"/watch/{clip_id}/poster"

    @given(clip_ids, assets, ttls_s, st.booleans())
    def test_neither_kind_of_signature_opens_what_the_other_does(self, clip_id, asset, ttl_s, download):
        expires_at = NOW + timedelta(seconds=ttl_s)
        media = query_of(SIGNER.sign(clip_id, asset, expires_at, download=download))
        watch = query_of(SIGNER.sign_watch(clip_id, expires_at).path())

        with pytest.raises(ClipUrlInvalidError):
            SIGNER.verify_watch(clip_id, media, NOW)
        for query in (watch, [*watch, ("dl", "1")]):
            with pytest.raises(ClipUrlInvalidError):
                SIGNER.verify(clip_id, asset, query, NOW)

    @given(clip_ids, clip_ids, watch_ttls_s, watch_ttls_s)
    def test_a_signature_opens_its_own_clip_until_its_own_end(self, clip, clip2, ttl, ttl2):
        signed = dict(query_of(SIGNER.sign_watch(clip, NOW + timedelta(seconds=ttl)).path()))
        other = dict(query_of(SIGNER.sign_watch(clip2, NOW + timedelta(seconds=ttl2)).path()))
        forged = list((other | {"signature": signed["signature"]}).items())

        if (clip, ttl) == (clip2, ttl2):
            SIGNER.verify_watch(clip2, forged, NOW)
        else:
            with pytest.raises(ClipUrlInvalidError):
                SIGNER.verify_watch(clip2, forged, NOW)

    def test_no_flipped_bit_of_the_query_is_accepted(self):
        good = query_of(SIGNER.sign_watch(CLIP_ID, EXPIRES_AT).path())
        for at, (name, value) in enumerate(good):
            for bit in range(8 * len(value)):
                flipped = bytearray(value.encode())
                flipped[bit // 8] ^= 1 << bit % 8
                with pytest.raises(ClipUrlError):
                    SIGNER.verify_watch(
                        CLIP_ID, [*good[:at], (name, flipped.decode("latin-1")), *good[at + 1 :]], NOW
                    )

    def test_it_lives_until_its_second_which_may_be_years_ahead(self):
        longest = NOW + timedelta(seconds=LONGEST_CLIP_TTL_S)
        link = SIGNER.sign_watch(CLIP_ID, longest)

        assert SIGNER.verify_watch(CLIP_ID, query_of(link.path()), NOW) == link
        with pytest.raises(ClipUrlExpiredError):
            SIGNER.verify_watch(CLIP_ID, query_of(link.path()), longest)
        with pytest.raises(ClipUrlInvalidError, match="further ahead"):
            SIGNER.verify_watch(
                CLIP_ID, query_of(SIGNER.sign_watch(CLIP_ID, longest + timedelta(seconds=1)).path()), NOW
            )

    @pytest.mark.parametrize("added", [")", ").", ">", "\u200b", "\u202c\u2069"])
    def test_what_chat_takes_into_the_links_end_is_ignored_and_not_passed_on(self, added):
        link = SIGNER.sign_watch(CLIP_ID, EXPIRES_AT)
        *query, (name, value) = query_of(link.path())

        assert SIGNER.verify_watch(CLIP_ID, [*query, (name, value + added)], NOW) == link
