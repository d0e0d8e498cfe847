//! Every sampler against diffusers' class of that name: `reference/make.py` made the numbers.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Tensor, TensorData};
use parity::{Fixture, relative_error, values};
use sd_diffusion::{
    Error, Noise, NoiseSchedule, PredictionType, Sampler, SamplerKind, Schedule, SchedulerConfig,
    TorchRng,
};
use serde::Deserialize;

const SHAPE: [usize; 4] = [1, 4, 2, 2];

#[derive(Deserialize)]
struct Reference {
    configs: BTreeMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Deserialize, Debug)]
struct Case {
    config: String,
    sampler: String,
    schedule: String,
    steps: usize,
    strength: Option<f64>,
    eta: Option<f64>,
    /// 0 where diffusers raised an exception or arrived at NaN.
    evaluations: usize,
}

fn reference(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/reference")
        .join(name)
}

fn samplers() -> (Reference, Fixture) {
    let text = std::fs::read_to_string(reference("samplers.json")).unwrap();
    (
        serde_json::from_str(&text).unwrap(),
        Fixture::open(reference("samplers.safetensors")),
    )
}

fn tensor(values: Vec<f32>) -> Tensor<4> {
    Tensor::from_data(TensorData::new(values, SHAPE), &parity::device())
}

/// 0.3 · latent + 0.1 · sin(timestep / 100 + place).
fn model(latent: Tensor<4>, timestep: f32) -> Tensor<4> {
    let wave = |place: u8| (0.1 * (f64::from(timestep) / 100.0 + f64::from(place)).sin()) as f32;
    latent * 0.3 + tensor((0..16).map(wave).collect())
}

/// The timesteps, and the latent before the first evaluation and after each.
fn run(case: &Case, config: &SchedulerConfig) -> Result<(Vec<f32>, Vec<Vec<f32>>), Error> {
    let mut sampler = Sampler::new(case.sampler.parse()?, case.schedule.parse()?, config)?;
    if let Some(eta) = case.eta {
        sampler = sampler.with_eta(eta)?;
    }
    let mut rng = TorchRng::new(7);
    let noise = rng.randn_tensor(SHAPE, &parity::device());
    let (steps, mut latent) = match case.strength {
        None => {
            let steps = sampler.steps(case.steps)?;
            (steps, sampler.initial(noise))
        }
        Some(strength) => {
            let steps = sampler.image_steps(case.steps, strength)?;
            let image = tensor((0..16).map(|i| i as f32 / 7.5 - 1.0).collect());
            let latent = sampler.add_noise(image, noise, &steps[0]);
            (steps, latent)
        }
    };
    let mut path = vec![values(latent.clone())];
    for step in &steps {
        let predicted = model(sampler.scale(latent.clone(), step), step.timestep);
        latent = sampler.step(latent, predicted, step, &mut rng);
        path.push(values(latent.clone()));
    }
    Ok((steps.iter().map(|step| step.timestep).collect(), path))
}

#[test]
fn every_sampler_takes_the_path_that_diffusers_takes() {
    let (reference, fixture) = samplers();
    let flat = |name| fixture.float(name).1;
    let (mut timesteps, mut paths, mut ends) = (flat("timesteps"), flat("paths"), flat("ends"));
    let mut worst = BTreeMap::<&str, (f64, f64)>::new();
    for case in &reference.cases {
        let config = SchedulerConfig::from_json(&reference.configs[&case.config])
            .unwrap_or_else(|e| panic!("{}: {e}", case.config));
        let ours = run(case, &config);
        if case.evaluations == 0 {
            // Where diffusers has no result, ours is an error or finite.
            if let Ok((_, path)) = ours {
                assert!(path.iter().flatten().all(|x| x.is_finite()), "{case:?}");
            }
            continue;
        }
        let (our_timesteps, our_path) = ours.unwrap_or_else(|e| panic!("{case:?}: {e}"));
        let (their_timesteps, rest) = timesteps.split_at(case.evaluations);
        timesteps = rest;
        let (their_path, rest) = paths.split_at(4 * (case.evaluations + 1));
        paths = rest;
        let (their_end, rest) = ends.split_at(16);
        ends = rest;

        assert_eq!(our_timesteps.len(), case.evaluations, "{case:?}");
        for (ours, theirs) in our_timesteps.iter().zip(their_timesteps) {
            assert!(
                (ours - theirs).abs() < 2e-3,
                "{case:?}: timestep {ours}, not {theirs}"
            );
        }
        for (at, (ours, theirs)) in our_path.iter().zip(their_path.chunks(4)).enumerate() {
            let ours: Vec<f32> = ours.iter().step_by(5).copied().collect();
            let error = relative_error(&ours, theirs);
            assert!(error < 1e-4, "{case:?}: {error:.2e} after {at} evaluations");
            let entry = worst.entry(&case.sampler).or_default();
            entry.0 = entry.0.max(error);
        }
        let error = relative_error(our_path.last().unwrap(), their_end);
        assert!(error < 1e-4, "{case:?}: {error:.2e} at the end");
        let entry = worst.entry(&case.sampler).or_default();
        entry.1 = entry.1.max(error);
    }
    assert!(timesteps.is_empty() && paths.is_empty() && ends.is_empty());
    for (sampler, (path, end)) in worst {
        println!(
            "{sampler:>9}: largest relative error {path:.1e} on the way, {end:.1e} at the end"
        );
    }
}

#[test]
fn noise_schedules_are_those_of_diffusers() {
    let (reference, fixture) = samplers();
    let batch = |start: f32, end: f32| {
        let values = (0..12).map(|i| start + (end - start) * i as f32 / 11.0);
        let data = TensorData::new(values.collect::<Vec<_>>(), [3, 1, 2, 2]);
        Tensor::<4>::from_data(data, &parity::device())
    };
    for name in ["sd15", "cosine", "linear-500", "zero-snr-v"] {
        let config = SchedulerConfig::from_json(&reference.configs[name]).unwrap();
        let schedule = NoiseSchedule::new(&config).unwrap();
        let (_, theirs) = fixture.float(&format!("{name}.alphas_cumprod"));
        assert_eq!(schedule.timesteps(), theirs.len());
        for (t, (ours, theirs)) in schedule.alphas_cumprod().iter().zip(theirs).enumerate() {
            // Equal to the bit, but for the rescaled: torch's square root of a vector is not rounded correctly, and the differences add up.
            let tolerance = if config.rescale_betas_zero_snr {
                2e-6
            } else {
                0.0
            };
            assert!(
                (ours - theirs).abs() <= tolerance,
                "{name}: ᾱ of {t} is {ours}, not {theirs}"
            );
        }
        let (latent, noise, t) = (batch(-1.0, 1.0), batch(2.0, -2.0), [0, 120, 499]);
        let noised = schedule.add_noise(latent.clone(), noise.clone(), &t);
        fixture.assert_close(&format!("{name}.noised"), noised, 1e-6);
        let velocity = schedule.velocity(latent, noise, &t);
        fixture.assert_close(&format!("{name}.velocity"), velocity, 1e-6);
        let (alpha_bar, sigma) = (schedule.alphas_cumprod()[120], schedule.sigmas()[120]);
        assert!((schedule.snr(120) * (1.0 - alpha_bar) / alpha_bar - 1.0).abs() < 1e-6);
        assert!((schedule.snr(120) * sigma * sigma - 1.0).abs() < 1e-5);
    }
}

#[test]
fn stable_diffusion_15_is_the_default() {
    let (reference, _) = samplers();
    let mut read = SchedulerConfig::from_json(&reference.configs["sd15"]).unwrap();
    read.other.clear();
    assert_eq!(read, SchedulerConfig::default());
    let again = serde_json::to_string(&read).unwrap();
    assert_eq!(
        serde_json::from_str::<SchedulerConfig>(&again).unwrap(),
        read
    );
}

/// `timestep_spacing` trailing with 61 steps makes 62 timesteps in diffusers, the last of them −1.
#[test]
fn trailing_spacing_takes_the_steps_asked_for() {
    let config = SchedulerConfig {
        timestep_spacing: Some(sd_diffusion::TimestepSpacing::Trailing),
        ..SchedulerConfig::default()
    };
    for kind in [SamplerKind::Ddim, SamplerKind::Euler, SamplerKind::UniPc] {
        let mut sampler = Sampler::new(kind, Schedule::Default, &config).unwrap();
        for count in 1..=1000 {
            let steps = sampler.steps(count).unwrap();
            assert_eq!((steps.len(), steps[0].timestep), (count, 999.0));
            assert!(steps.iter().all(|step| step.timestep >= 0.0));
        }
    }
}

#[test]
fn mistakes_are_told() {
    let config = SchedulerConfig::default();
    let new = |kind, schedule, config: &SchedulerConfig| {
        Sampler::new(kind, schedule, config)
            .err()
            .map(|e| e.to_string())
    };
    let says = |message: Option<String>, part: &str| {
        let message = message.expect("an error");
        assert!(message.contains(part), "{message}");
    };

    says(
        "dpm".parse::<SamplerKind>().err().map(|e| e.to_string()),
        "there is no sampler `dpm`; there are ddim, euler, euler-a, heun, pndm, dpmpp-2m, unipc, lcm, tcd",
    );
    says(
        "exponential"
            .parse::<Schedule>()
            .err()
            .map(|e| e.to_string()),
        "default, karras",
    );
    for kind in SamplerKind::ALL {
        assert_eq!(kind.to_string().parse::<SamplerKind>().unwrap(), kind);
        let karras = new(kind, Schedule::Karras, &config);
        match kind {
            SamplerKind::Ddim
            | SamplerKind::Pndm
            | SamplerKind::EulerAncestral
            | SamplerKind::Lcm
            | SamplerKind::Tcd => {
                says(karras, "has no `karras` schedule");
            }
            _ => assert_eq!(karras, None),
        }

        let mut sampler = Sampler::new(kind, Schedule::Default, &config).unwrap();
        says(
            sampler.steps(0).err().map(|e| e.to_string()),
            "cannot take 0 steps",
        );
        says(
            sampler.steps(1001).err().map(|e| e.to_string()),
            match kind {
                SamplerKind::Lcm | SamplerKind::Tcd => "at most 50; 4 to 8 are usual",
                _ => "at most 1000",
            },
        );
        for strength in [0.0, 0.04, -1.0, 1.1, f64::NAN] {
            let steps = sampler.image_steps(20, strength);
            says(steps.err().map(|e| e.to_string()), "strength");
        }
    }
    // With leading spacing and steps_offset 1 the first of 1000 steps would be beyond the schedule.
    let mut ddim = Sampler::new(SamplerKind::Ddim, Schedule::Default, &config).unwrap();
    says(
        ddim.steps(1000).err().map(|e| e.to_string()),
        "timestep 1000",
    );
    let mut unipc = Sampler::new(SamplerKind::UniPc, Schedule::Default, &config).unwrap();
    says(
        unipc.steps(1000).err().map(|e| e.to_string()),
        "one noise level",
    );

    let with_eta = |kind, eta| {
        let sampler = Sampler::new(kind, Schedule::Default, &config).unwrap();
        sampler.with_eta(eta).err().map(|e| e.to_string())
    };
    for eta in [-0.1, 1.1, f64::NAN] {
        says(with_eta(SamplerKind::Tcd, eta), "0 to 1");
    }
    says(
        with_eta(SamplerKind::Lcm, 0.5),
        "sampler `lcm` cannot take eta 0.5",
    );
    assert_eq!(with_eta(SamplerKind::Tcd, 0.5), None);
    for (key, value) in [
        ("original_inference_steps", "0"),
        ("original_inference_steps", "1001"),
        ("timestep_scaling", "0"),
        ("timestep_scaling", "1e30"),
    ] {
        let mut json = serde_json::to_value(&config).unwrap();
        json[key] = serde_json::from_str(value).unwrap();
        let config = SchedulerConfig::from_json(&json.to_string()).unwrap();
        let mut lcm = Sampler::new(SamplerKind::Lcm, Schedule::Default, &config).unwrap();
        says(lcm.steps(4).err().map(|e| e.to_string()), key);
    }

    let sample = SchedulerConfig {
        prediction_type: PredictionType::Sample,
        ..config.clone()
    };
    says(
        new(SamplerKind::Pndm, Schedule::Default, &sample),
        "predicts `sample`",
    );

    let with_warm_up = SchedulerConfig {
        skip_prk_steps: false,
        ..config.clone()
    };
    let mut pndm = Sampler::new(SamplerKind::Pndm, Schedule::Default, &with_warm_up).unwrap();
    says(pndm.steps(3).err().map(|e| e.to_string()), "skip_prk_steps");
}

#[test]
fn configurations_that_would_give_another_picture_are_refused() {
    let betas = r#""beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear""#;
    let new = |kind, rest: &str| {
        let config = SchedulerConfig::from_json(&format!("{{{betas}, {rest}}}"))?;
        Sampler::new(kind, Schedule::Default, &config)
    };
    use SamplerKind::{Ddim, Dpmpp2m, Euler, Heun, UniPc};
    for (kind, rest, key) in [
        (Ddim, r#""thresholding": true"#, "thresholding"),
        (Heun, r#""use_beta_sigmas": true"#, "use_beta_sigmas"),
        (
            Euler,
            r#""interpolation_type": "log_linear""#,
            "interpolation_type",
        ),
        (
            Dpmpp2m,
            r#""algorithm_type": "sde-dpmsolver++""#,
            "algorithm_type",
        ),
        (
            Dpmpp2m,
            r#""lambda_min_clipped": -5.1"#,
            "lambda_min_clipped",
        ),
        (UniPc, r#""solver_order": 3"#, "solver_order"),
        (UniPc, r#""lower_order_final": false"#, "lower_order_final"),
        (
            Euler,
            r#""prediction_type": "flow_prediction""#,
            "prediction_type",
        ),
        (Euler, r#""beta_schedule": "exp""#, "beta_schedule"),
        (Euler, r#""beta_end": 1.5"#, "beta_end"),
        (Euler, r#""beta_start": null"#, "beta_start"),
        (
            Euler,
            r#""num_train_timesteps": 1e3"#,
            "num_train_timesteps",
        ),
        (
            Euler,
            r#""num_train_timesteps": 4000000000"#,
            "num_train_timesteps",
        ),
        (Euler, r#""trained_betas": [0.1, 0.2]"#, "trained_betas"),
    ] {
        let message = new(kind, rest).expect_err(rest).to_string();
        assert!(message.contains(&format!("`{key}`")), "{message}");
    }
    // A sampler that does not read the key does not mind it.
    new(
        Euler,
        r#""thresholding": true, "algorithm_type": "sde-dpmsolver++""#,
    )
    .unwrap();
    new(
        Dpmpp2m,
        r#""lambda_min_clipped": -Infinity, "variance_type": "fixed_small""#,
    )
    .unwrap();
    assert!(SchedulerConfig::from_json("[]").is_err());
    assert!(SchedulerConfig::from_json("").is_err());
}
