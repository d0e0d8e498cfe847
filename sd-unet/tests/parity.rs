//! The UNet against diffusers' own, on small random models.

use burn::module::Module;
use parity::{Fixture, device, reference};
use sd_unet::{Conditioning, Timesteps, TokenMerging, UNet2DConditionModel, UNetConfig};

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

fn bits(tensor: burn::tensor::Tensor<4>) -> Vec<u32> {
    parity::values(tensor)
        .into_iter()
        .map(f32::to_bits)
        .collect()
}

#[test]
fn a_deep_feature_of_its_own_step_changes_nothing() {
    let (unet, fixture) = (
        open("tiny-sd/unet"),
        Fixture::open(reference().join("components.safetensors")),
    );
    let conditioning = Conditioning::text(fixture.tensor("unet.context"));
    assert_eq!(unet.depths(), 12);
    for size in ["8x8", "9x12"] {
        let latent = fixture.tensor(&format!("unet.{size}.latent"));
        let time = || timesteps(&fixture, &format!("unet.{size}.timestep"));
        let full = unet.forward(latent.clone(), time(), &conditioning);
        for depth in 1..=unet.depths() {
            let (kept, feature) =
                unet.forward_keeping(latent.clone(), time(), &conditioning, depth);
            assert_eq!(bits(kept), bits(full.clone()), "{depth}");
            let shallow = unet.forward_from(latent.clone(), time(), &conditioning, &feature);
            assert_eq!(bits(shallow), bits(full.clone()), "{depth}");
            // Another step's feature is close, and not the same: the deep layers were not run.
            let near = latent.clone() * 1.02;
            let (exact, reused) = (
                unet.forward(near.clone(), time(), &conditioning),
                unet.forward_from(near, time(), &conditioning, &feature),
            );
            let error =
                parity::relative_error(&parity::values(reused), &parity::values(exact.clone()));
            assert!(error > 0.0 && error < 0.05, "{depth}: {error:.1e}");
        }
    }
}

#[test]
fn merging_no_tokens_changes_nothing_and_merging_some_little() {
    let (unet, fixture) = (
        open("tiny-sd/unet"),
        Fixture::open(reference().join("components.safetensors")),
    );
    let plain = Conditioning::text(fixture.tensor("unet.context"));
    for size in ["16x16", "9x12"] {
        let latent = fixture.tensor(&format!("unet.{size}.latent"));
        let time = || timesteps(&fixture, &format!("unet.{size}.timestep"));
        let full = unet.forward(latent.clone(), time(), &plain);
        let with = |ratio| {
            let conditioning = plain.clone().merging(TokenMerging::new(ratio));
            unet.forward(latent.clone(), time(), &conditioning)
        };
        assert_eq!(bits(with(0.0)), bits(full.clone()));
        let mut before = 0.0;
        for ratio in [0.25, 0.5, 0.75] {
            let error =
                parity::relative_error(&parity::values(with(ratio)), &parity::values(full.clone()));
            println!("{size}: {ratio} of the positions merged, relative error {error:.1e}");
            assert!(error > before && error < 0.2, "{ratio}: {error:.1e}");
            assert_eq!(bits(with(ratio)), bits(with(ratio)));
            before = error;
        }
    }
}
