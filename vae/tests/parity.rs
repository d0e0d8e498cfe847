//! The VAE against diffusers' own, on small random models.

use burn::module::Module;
use parity::device;
use sd_vae::VaeConfig;

#[test]
fn stable_diffusion_1_has_83_653_863_parameters() {
    let vae = VaeConfig::default().init(&device());
    assert_eq!(vae.num_params(), 83_653_863);
}
