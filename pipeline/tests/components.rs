//! The parts of an opened model against diffusers' and transformers' own: that the right weights are in the right places.

use burn::tensor::FloatDType;
use parity::{Fixture, device, reference};
use sd_pipeline::{OpenOptions, StableDiffusion};
use sd_unet::Conditioning;

#[test]
fn an_opened_folder_computes_what_diffusers_computes() {
    let options = OpenOptions::default();
    let folder = reference().join("tiny-sd");
    let model = StableDiffusion::open(folder, &options, FloatDType::F32, &device()).unwrap();
    let fixture = Fixture::open(reference().join("components.safetensors"));

    let ids = fixture.ints::<2>("text.ids");
    for (name, clip_skip) in [("text.last", 1), ("text.skip2", 2), ("text.skip3", 3)] {
        let ours = model.text_encoder.forward_skip(ids.clone(), clip_skip);
        fixture.assert_close(name, ours, 1e-5);
    }

    let times = parity::values(fixture.ints::<1>("unet.8x16.timestep").float());
    let conditioning = Conditioning::text(fixture.tensor("unet.context"));
    let latent = fixture.tensor("unet.8x16.latent");
    let ours = model.unet.forward(latent, times, &conditioning);
    fixture.assert_close("unet.8x16.output", ours, 1e-5);

    let scale = model.vae.config().scaling_factor;
    let latent = fixture.tensor::<4>("vae.latent") * scale;
    fixture.assert_close("vae.decoded", model.vae.decode(latent), 1e-5);
}
