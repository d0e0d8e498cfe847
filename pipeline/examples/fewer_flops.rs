//! What each way of saving work saves, and what it costs the picture, against the full computation of the same request.
//!
//! ```sh
//! cargo run --release -p sd-pipeline --example fewer_flops -- MODEL [SIDE [STEPS [RUNS]]]
//! ```
//!
//! `MODEL` is a diffusers folder or a single file, or `full-size`: a UNet of Stable Diffusion 1.5's sizes with random weights, in the small
//! model of the tests, whose speed is meaningful and whose pictures are noise. Runs are interleaved; seconds are the median's.

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Instant;

use burn::tensor::FloatDType;
use image::RgbImage;
use sd_pipeline::{OpenOptions, Request, StableDiffusion};
use sd_unet::UNetConfig;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let Some(model) = arguments.first() else {
        return Err("MODEL [SIDE [STEPS [RUNS]]] is expected".into());
    };
    let number = |at: usize, usual: usize| {
        let given = arguments.get(at).map(|text| text.parse::<usize>());
        given.unwrap_or(Ok(usual))
    };
    let (side, steps, runs) = (number(1, 512)?, number(2, 20)?, number(3, 3)?.max(1));
    let device = parity::device();
    let open =
        |path| StableDiffusion::open(path, &OpenOptions::default(), FloatDType::F32, &device);
    let model = match model.as_str() {
        "full-size" => {
            let mut small = open(parity::reference().join("tiny-sd"))?;
            let config = UNetConfig {
                cross_attention_dim: small.unet.config().cross_attention_dim.clone(),
                ..UNetConfig::default()
            };
            small.unet = config.init(&device);
            small
        }
        path => open(path.into())?,
    };

    let full = Request {
        prompt: "a portrait of mychar001, smiling".into(),
        seed: 42,
        steps,
        width: side,
        height: side,
        ..Request::default()
    };
    let ways = [
        ("full", full.clone()),
        (
            "--deep-cache 2",
            Request {
                deep_cache: 2,
                ..full.clone()
            },
        ),
        (
            "--deep-cache 3",
            Request {
                deep_cache: 3,
                ..full.clone()
            },
        ),
        (
            "--deep-cache 5",
            Request {
                deep_cache: 5,
                ..full.clone()
            },
        ),
        (
            "--token-merging 0.25",
            Request {
                token_merging: 0.25,
                ..full.clone()
            },
        ),
        (
            "--token-merging 0.5",
            Request {
                token_merging: 0.5,
                ..full.clone()
            },
        ),
        (
            "--cfg-start 0.2 --cfg-end 0.8",
            Request {
                cfg_start: 0.2,
                cfg_end: 0.8,
                ..full.clone()
            },
        ),
        (
            "--cfg-end 0.5",
            Request {
                cfg_end: 0.5,
                ..full.clone()
            },
        ),
    ];
    let mut seconds = vec![vec![]; ways.len()];
    let mut made = Vec::new();
    for round in 0..runs {
        for (at, (_, request)) in ways.iter().enumerate() {
            let start = Instant::now();
            let drawn = model.generate(request, |_| ControlFlow::Continue(()))?;
            seconds[at].push(start.elapsed().as_secs_f64());
            if round == 0 {
                made.push((drawn.pictures[0].clone(), drawn.evaluations));
            }
        }
    }
    println!(
        "{side} pixels, {steps} steps, CFG {}, median of {runs}",
        full.cfg
    );
    println!("| option | whole | shallow | seconds | speed | PSNR in dB | mean of 255 |");
    println!("|---|---|---|---|---|---|---|");
    let median = |seconds: &mut Vec<f64>| {
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    };
    let slowest = median(&mut seconds[0]);
    for (((name, _), seconds), (picture, work)) in ways.iter().zip(&mut seconds).zip(&made) {
        let (psnr, mean) = difference(picture, &made[0].0);
        let time = median(seconds);
        println!(
            "| `{name}` | {} | {} | {time:.2} | {:.2} | {psnr:.1} | {mean:.2} |",
            work.whole,
            work.shallow,
            slowest / time
        );
    }
    Ok(())
}

/// Peak signal-to-noise ratio in decibels, and mean difference of values.
fn difference(ours: &RgbImage, theirs: &RgbImage) -> (f64, f64) {
    let pairs = ours.as_raw().iter().zip(theirs.as_raw());
    let apart = pairs.map(|(a, b)| f64::from(a.abs_diff(*b)));
    let (mut square, mut sum) = (0.0, 0.0);
    for value in apart {
        square += value * value;
        sum += value;
    }
    let count = ours.as_raw().len() as f64;
    (10.0 * (255.0 * 255.0 * count / square).log10(), sum / count)
}
