"""A smaller decoder's file is read in its authors' layout, and refused by name when anything in it is wrong."""

import av
import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from anime_studio.checkpoints.decoders import locate_with_decoder
from anime_studio.core.decoders import Decoder
from anime_studio.core.errors import CheckpointError
from anime_studio.core.recipes import TINY_RANDOM
from anime_studio.engine.decoder.choice import decoder_for
from anime_studio.engine.decoder.streaming import StreamingDecoder
from anime_studio.engine.decoder.taehv import TaehvDecoder
from anime_studio.engine.loading.prepare import packing_of, prepare
from anime_studio.engine.loading.smaller_decoders import load_smaller_decoder
from anime_studio.engine.loading.wan_names import wan_name
from anime_studio.engine.loading.widen import BASE_DIM, widened
from anime_studio.engine.startup import start_engine
from support.engine import Reports, checkpoint_in, spec_of
from support.smaller_decoders import light_vae, light_weights, tiny_weights, write, write_decoder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config():
    """Of a checkpoint whose latents are Wan 2.1's."""
    return AutoencoderKLWan(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1).config


@pytest.fixture(scope="module")
def vae():
    return light_vae()


def latents(frames: int = 2) -> torch.Tensor:
    return torch.randn(1, 16, frames, 2, 4, generator=torch.Generator().manual_seed(1))


def frames_of(decoder, given: torch.Tensor) -> torch.Tensor:
    return torch.cat(list(decoder.decode(given)))


def test_every_name_of_wan_is_what_diffusers_takes_it_for(vae):
    theirs = {wan_name(name, num_res_blocks=2): name for name in vae.state_dict()}

    assert len(theirs) == len(vae.state_dict())
    assert convert_wan_vae_to_diffusers(dict(theirs)) == {name: name for name in theirs.values()}


def test_a_name_of_no_wan_vae_has_no_counterpart():
    with pytest.raises(KeyError):
        wan_name("decoder.up_blocks.0.avg_shortcut.weight", num_res_blocks=2)


def test_light_gives_what_its_weights_give_under_diffusers_names(tmp_path, vae, config):
    path = write(tmp_path / "light.safetensors", light_weights(vae))

    model = load_smaller_decoder(Decoder.LIGHT, path, config, CPU)

    assert torch.equal(
        frames_of(StreamingDecoder(model), latents()), frames_of(StreamingDecoder(vae), latents())
    )


def test_tiny_decodes(tmp_path, config):
    path = write(tmp_path / "tiny.safetensors", tiny_weights())

    model = load_smaller_decoder(Decoder.TINY, path, config, CPU)

    decoded = frames_of(TaehvDecoder(model), latents())
    assert decoded.shape == (5, 3, 16, 32)
    assert model.config.scale_factor_temporal == 4


def test_channels_of_nothing_change_no_frame(vae):
    torch.manual_seed(2)
    narrow = light_vae()
    for name, parameter in narrow.named_parameters():
        if name.endswith(("gamma", "bias")):  # as training leaves them: neither one nor zero
            parameter.data += 0.3 * torch.randn_like(parameter)
    wide = AutoencoderKLWan(base_dim=BASE_DIM).eval().requires_grad_(False)
    for each in (narrow, wide):
        del each.encoder, each.quant_conv

    ours = frames_of(StreamingDecoder(widened(narrow, wide)), latents())

    assert ours.std() > 0.1
    torch.testing.assert_close(ours, frames_of(StreamingDecoder(narrow), latents()), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("decoder", "spoil", "complaint"),
    [
        (Decoder.TINY, lambda weights: weights.pop("decoder.7.conv.weight"), "lacks 1 weights"),
        (Decoder.TINY, lambda weights: weights.update(extra=torch.zeros(1)), "another model.*extra"),
        (
            Decoder.TINY,
            lambda weights: weights.update({"decoder.22.bias": torch.zeros(12)}),
            r"decoder\.22\.bias has shape \[12\]",
        ),
        (
            Decoder.TINY,
            lambda weights: weights["encoder.0.bias"].fill_(torch.nan),
            r"encoder\.0\.bias holds NaN",
        ),
        (Decoder.LIGHT, lambda weights: weights.pop("encoder.head.2.bias"), r"encoder\.head\.2\.bias"),
        (
            Decoder.LIGHT,
            lambda weights: weights["decoder.head.0.gamma"].fill_(torch.inf),
            r"decoder\.head\.0\.gamma holds NaN or infinity",
        ),
    ],
)
def test_a_wrong_tensor_is_named(tmp_path, config, decoder, spoil, complaint):
    weights = tiny_weights() if decoder is Decoder.TINY else light_weights(light_vae())
    spoil(weights)
    path = write(tmp_path / "wrong.safetensors", weights)

    with pytest.raises(CheckpointError, match=complaint) as refusal:
        load_smaller_decoder(decoder, path, config, CPU)
    assert str(path) in refusal.value.detail


def test_the_file_of_the_same_shape_that_reads_other_latents_is_refused(tmp_path, config):
    path = write(
        tmp_path / "taew2_1.safetensors", {name: tensor.half() for name, tensor in tiny_weights().items()}
    )

    with pytest.raises(CheckpointError, match="is F16, this decoder is F32"):
        load_smaller_decoder(Decoder.TINY, path, config, CPU)


def test_a_file_cut_short_is_refused(tmp_path, config):
    path = write(tmp_path / "cut.safetensors", tiny_weights())
    path.write_bytes(path.read_bytes()[:-4])

    with pytest.raises(CheckpointError, match="truncated"):
        load_smaller_decoder(Decoder.TINY, path, config, CPU)


@pytest.mark.parametrize("decoder", [Decoder.LIGHT, Decoder.TINY])
def test_a_checkpoint_of_other_latents_is_refused(tmp_path, decoder):
    other = AutoencoderKLWan(base_dim=4, latents_mean=[0.0] * 16).config

    with pytest.raises(CheckpointError, match=r"latents_mean.*ANIME_STUDIO_DECODER=full"):
        load_smaller_decoder(decoder, tmp_path / "none.safetensors", other, CPU)


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("decoder", [Decoder.LIGHT, Decoder.TINY])
def test_an_engine_decodes_with_the_chosen_decoder_from_source_and_prepared_alike(
    tmp_path, tiny_checkpoint, decoder, prepared
):
    weights = tiny_weights() if decoder is Decoder.TINY else light_weights(light_vae())
    checkpoint_in(tmp_path, tiny_checkpoint)
    write_decoder(tmp_path, decoder, weights)
    checkpoint = locate_with_decoder(TINY_RANDOM, decoder, tmp_path)
    if prepared:  # knows nothing of the decoder, and needs not
        prepare(checkpoint, packing_of("cpu"))
    engine = start_engine(TINY_RANDOM, checkpoint, device="cpu")
    given = torch.randn(1, 16, 2, 4, 6, generator=torch.Generator().manual_seed(1))

    seen = np.concatenate(list(engine.frames(given)))

    file = checkpoint.decoder_file
    alone = decoder_for(load_smaller_decoder(decoder, file, engine.components.vae.config, CPU))
    expected = (frames_of(alone, given).permute(0, 2, 3, 1) + 1) * 127.5
    assert np.abs(seen.astype(float) - expected.numpy()).max() < 0.51
    assert (engine.components.folder == checkpoint.folder) is not prepared


def test_a_clip_of_the_tiny_decoder_plays(tmp_path, tiny_checkpoint):
    checkpoint_in(tmp_path, tiny_checkpoint)
    write_decoder(tmp_path, Decoder.TINY, tiny_weights())
    engine = start_engine(TINY_RANDOM, locate_with_decoder(TINY_RANDOM, Decoder.TINY, tmp_path), device="cpu")
    spec = spec_of().model_copy(update={"decoder": "tiny"})

    rendered = engine.render(spec, tmp_path, Reports())

    with av.open(rendered.video) as container:
        assert container.metadata["comment"].split()[3] == "decoder=tiny"
        assert sum(1 for _ in container.decode(video=0)) == spec.num_frames
