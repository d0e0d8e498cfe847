//! The UNet against diffusers' own, on small random models.

use burn::module::Module;
use parity::{Fixture, device, reference};
use sd_unet::{Conditioning, Timesteps, UNet2DConditionModel, UNetConfig};

#[test]
fn stable_diffusion_1_has_859_520_964_parameters() {
    let unet = UNetConfig::default().init(&device());
    assert_eq!(unet.num_params(), 859_520_964);
}

fn open(folder: &str) -> UNet2DConditionModel {
    let folder = reference().join(folder);
    let json = std::fs::read_to_string(folder.join("config.json")).expect("a config.json");
    let config = UNetConfig::from_json(&json).expect("a UNet's config.json");
    parity::load(
        config.init(&device()),
        folder.join("diffusion_pytorch_model.safetensors"),
    )
}

fn timesteps(fixture: &Fixture, name: &str) -> Timesteps {
    let steps = fixture.ints::<1>(name).float();
    Timesteps::from(parity::values(steps))
}

#[test]
fn predictions_are_diffusers_at_every_size() {
    let (unet, fixture) = (
        open("tiny-sd/unet"),
        Fixture::open(reference().join("components.safetensors")),
    );
    let conditioning = Conditioning::text(fixture.tensor("unet.context"));
    for size in ["8x8", "8x16", "9x12", "16x16"] {
        let latent = fixture.tensor(&format!("unet.{size}.latent"));
        let time = timesteps(&fixture, &format!("unet.{size}.timestep"));
        let ours = unet.forward(latent, time, &conditioning);
        fixture.assert_close(&format!("unet.{size}.output"), ours, 1e-5);
    }
    let time = timesteps(&fixture, "unet.scalar.timestep");
    let ours = unet.forward(fixture.tensor("unet.8x8.latent"), time, &conditioning);
    fixture.assert_close("unet.scalar.output", ours, 1e-5);
}

#[test]
fn unusual_configurations_are_diffusers() {
    for name in ["unet-linear", "unet-sine-first", "unet-inpaint"] {
        let (unet, fixture) = (
            open(&format!("odd/{name}")),
            Fixture::open(reference().join(format!("odd/{name}.safetensors"))),
        );
        for size in ["", ".wide"] {
            let conditioning = Conditioning::text(fixture.tensor(&format!("context{size}")));
            let time = timesteps(&fixture, &format!("timestep{size}"));
            let latent = fixture.tensor(&format!("latent{size}"));
            let ours = unet.forward(latent, time, &conditioning);
            fixture.assert_close(&format!("output{size}"), ours, 1e-5);
        }
    }
}
