//! The UNet against diffusers' own, on small random models.

use burn::module::Module;
use parity::{Fixture, device, reference};
use sd_unet::{Conditioning, UNetConfig};

#[test]
fn stable_diffusion_1_has_859_520_964_parameters() {
    let unet = UNetConfig::default().init(&device());
    assert_eq!(unet.num_params(), 859_520_964);
}
