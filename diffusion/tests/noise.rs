//! `TorchRng` against torch's own generator: `reference/make.py` made the numbers.

use std::path::Path;

use parity::Fixture;
use sd_diffusion::{Noise, PhiloxRng, TorchRng};
use serde::Deserialize;

#[derive(Deserialize)]
struct Run {
    seed: String,
    calls: Vec<(String, usize)>,
    sums: Vec<f64>,
}

#[test]
fn torch_rng_draws_what_torch_draws() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
    let text = std::fs::read_to_string(folder.join("noise.json")).unwrap();
    let runs: Vec<Run> = serde_json::from_str(&text).unwrap();
    let fixture = Fixture::open(folder.join("noise.safetensors"));
    let mut ends = fixture.float("ends").1;
    let mut worst = 0f32;
    for run in runs {
        let mut rng = TorchRng::new(run.seed.parse().unwrap());
        for ((kind, count), sum) in run.calls.into_iter().zip(run.sums) {
            let uniform = kind == "uniform";
            let ours = match uniform {
                true => rng.uniform(count),
                false => rng.normal(count),
            };
            assert_eq!(ours.len(), count);
            let kept = count.min(32);
            let (theirs, rest) = ends.split_at(2 * kept);
            ends = rest;
            let our_ends = ours[..kept].iter().chain(&ours[count - kept..]);
            for (ours, theirs) in our_ends.zip(theirs) {
                let error = (ours - theirs).abs();
                assert!(
                    error <= if uniform { 0.0 } else { 1e-6 },
                    "seed {}, {kind} {count}: {ours}, not {theirs}",
                    run.seed
                );
                worst = worst.max(error);
            }
            // Uniform values are multiples of 2⁻²⁴: so are their sums, but for the reading of the JSON number.
            let error = (ours.iter().copied().map(f64::from).sum::<f64>() - sum).abs();
            let tolerance = if uniform {
                1e-9
            } else {
                1e-7 * count as f64 + 1e-6
            };
            assert!(
                error <= tolerance,
                "seed {}, {kind} {count}: sum off by {error}",
                run.seed
            );
        }
    }
    assert!(ends.is_empty());
    println!("largest difference of a normal value: {worst:.1e}");
}

/// A1111's golden vector for `--rng philox`, seed 0.
#[test]
fn philox_rng_draws_what_a1111_draws() {
    let golden = [
        -0.924_662_6,
        -0.425_344_15,
        -2.643_845_7,
        0.145_183_88,
        -0.120_866_47,
        -0.579_725_64,
        -0.622_851_2,
        -0.328_387_1,
        -1.074_542_3,
        -0.363_144_07,
        -1.671_050_7,
        2.265_505,
    ];
    let ours = PhiloxRng::new(0).normal(12);
    for (ours, theirs) in ours.iter().zip(golden) {
        assert!((ours - theirs as f32).abs() < 1e-6, "{ours}, not {theirs}");
    }
    let mut rng = PhiloxRng::new(0);
    let (first, second) = (rng.normal(4), rng.normal(4));
    assert_eq!(first, ours[..4]);
    assert_ne!(first, second);
}
