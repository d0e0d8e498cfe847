//! The VAE against diffusers' own, on small random models.

use burn::module::Module;
use parity::{Fixture, device, reference};
use sd_vae::{AutoencoderKL, Posterior, VaeConfig};

#[test]
fn stable_diffusion_1_has_83_653_863_parameters() {
    let vae = VaeConfig::default().init(&device());
    assert_eq!(vae.num_params(), 83_653_863);
}

fn open(folder: &str) -> AutoencoderKL {
    let folder = reference().join(folder);
    let json = std::fs::read_to_string(folder.join("config.json")).expect("a config.json");
    let config = VaeConfig::from_json(&json).expect("a VAE's config.json");
    parity::load(
        config.init(&device()),
        folder.join("diffusion_pytorch_model.safetensors"),
    )
}

/// The fixture's latents are the VAE's own; ours are in the UNet's units.
#[test]
fn encoding_and_decoding_are_diffusers() {
    let (vae, fixture) = (
        open("tiny-sd/vae"),
        Fixture::open(reference().join("components.safetensors")),
    );
    let scale = vae.config().scaling_factor;
    let posterior = vae.encode(fixture.tensor("vae.image"));
    fixture.assert_close("vae.mean", posterior.mean.clone() / scale, 1e-5);
    fixture.assert_close("vae.std", posterior.deviation.clone() / scale, 1e-5);
    let sample = posterior.sample(fixture.tensor("vae.noise"));
    fixture.assert_close("vae.sample", sample / scale, 1e-5);

    let latent = fixture.tensor::<4>("vae.latent") * scale;
    fixture.assert_close("vae.decoded", vae.decode(latent), 1e-5);
}

#[test]
fn unusual_configurations_are_diffusers() {
    for name in ["vae-three-levels", "vae-no-attention", "vae-no-quant"] {
        let (vae, fixture) = (
            open(&format!("odd/{name}")),
            Fixture::open(reference().join(format!("odd/{name}.safetensors"))),
        );
        let scale = vae.config().scaling_factor;
        let posterior = vae.encode(fixture.tensor("image"));
        fixture.assert_close("mean", posterior.mean / scale, 1e-5);
        let log_variance = (posterior.deviation / scale).log() * 2.0;
        fixture.assert_close("logvar", log_variance, 1e-5);
        let latent = fixture.tensor::<4>("latent") * scale;
        fixture.assert_close("decoded", vae.decode(latent), 1e-5);
    }
}

#[test]
fn decoding_in_tiles_is_diffusers() {
    let vae = open("odd/vae-three-levels");
    let fixture = Fixture::open(reference().join("vae_tiles.safetensors"));
    let latent = fixture.tensor::<4>("latent") * vae.config().scaling_factor;
    fixture.assert_close("decoded", vae.decode_tiled(latent.clone(), 8), 1e-5);
    // What fits one tile is decoded as ever.
    fixture.assert_close("whole", vae.decode_tiled(latent, 20), 1e-5);
}

#[test]
fn encoding_in_tiles_is_diffusers() {
    let vae = open("odd/vae-three-levels");
    let fixture = Fixture::open(reference().join("vae_tiles.safetensors"));
    let scale = vae.config().scaling_factor;
    let image = fixture.tensor::<4>("image");
    let mean = |posterior: Posterior| posterior.mean / scale;
    let tiled = vae.encode_tiled(image.clone(), 8);
    let log_variance = (tiled.deviation.clone() / scale).log() * 2.0;
    fixture.assert_close("mean", mean(tiled), 1e-5);
    fixture.assert_close("logvar", log_variance, 1e-5);
    fixture.assert_close("whole_mean", mean(vae.encode_tiled(image, 20)), 1e-5);
}
