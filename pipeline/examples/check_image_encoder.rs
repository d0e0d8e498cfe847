//! Compares an image encoder with transformers' results: `check_image_encoder FOLDER`.
//!
//! `parity/reference/make_full_clip_vision.py` makes such a folder. The exit status is 1 where a result is further away than 1e-5.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use burn::tensor::FloatDType;
use parity::{Fixture, device, relative_error, values};
use sd_pipeline::ImageEncoderFile;

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let folder = std::env::args_os().nth(1).ok_or("a folder is expected")?;
    let folder = PathBuf::from(folder);
    let expected = Fixture::open(folder.join("expected.safetensors"));

    let start = Instant::now();
    let file = ImageEncoderFile::open(&folder)?;
    let encoder = file.load(FloatDType::F32, &device())?;
    println!("opened in {:.1} s", start.elapsed().as_secs_f64());
    let start = Instant::now();
    let out = encoder.model.forward(expected.tensor("pixels"));
    let embeds = values(out.image_embeds);
    println!("encoded in {:.1} s", start.elapsed().as_secs_f64());

    let mut worst = 0.0_f64;
    for (name, ours) in [
        ("image_embeds", embeds),
        ("penultimate", values(out.penultimate)),
        ("last", values(out.last)),
    ] {
        let error = relative_error(&ours, expected.float(name).1);
        println!("{name}: {} numbers, relative error {error:.2e}", ours.len());
        worst = worst.max(error);
    }
    Ok(ExitCode::from(u8::from(worst > 1e-5)))
}
