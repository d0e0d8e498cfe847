//! What holds for every sampler and every number of steps.

use burn::tensor::{Tensor, TensorData};
use parity::{relative_error, values};
use proptest::prelude::*;
use sd_diffusion::{
    Noise, NoiseSchedule, PredictionType, Sampler, SamplerKind, Schedule, SchedulerConfig,
    TimestepSpacing, TorchRng, guide,
};

const SHAPE: [usize; 4] = [1, 2, 2, 2];

fn any_kind() -> impl Strategy<Value = SamplerKind> {
    prop::sample::select(SamplerKind::ALL.to_vec())
}

fn any_config() -> impl Strategy<Value = SchedulerConfig> {
    (
        prop::sample::select(vec![PredictionType::Epsilon, PredictionType::VPrediction]),
        prop::sample::select(vec![
            None,
            Some(TimestepSpacing::Linspace),
            Some(TimestepSpacing::Leading),
            Some(TimestepSpacing::Trailing),
        ]),
        any::<[bool; 3]>(),
    )
        .prop_map(
            |(prediction_type, timestep_spacing, [karras, end_at_one, warm_up])| SchedulerConfig {
                prediction_type,
                timestep_spacing,
                use_karras_sigmas: karras,
                set_alpha_to_one: Some(end_at_one),
                skip_prk_steps: !warm_up,
                ..SchedulerConfig::default()
            },
        )
}

fn noise(seed: u64) -> Tensor<4> {
    TorchRng::new(seed).randn_tensor(SHAPE, &parity::device())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whoever always guesses the noise that was added gets the image back.
    #[test]
    fn a_perfect_noise_guess_returns_the_image(
        kind in any_kind(),
        config in any_config(),
        count in 4usize..60,
        strength in 0.3f64..=1.0,
    ) {
        // What draws noise anew ends elsewhere than the noise that was added would lead.
        prop_assume!(!matches!(kind, SamplerKind::EulerAncestral | SamplerKind::Lcm | SamplerKind::Tcd));
        // Started in the middle, pndm repeats a step that its timesteps do not repeat: so does diffusers.
        let strength = if kind == SamplerKind::Pndm { 1.0 } else { strength };
        let config = SchedulerConfig {
            prediction_type: PredictionType::Epsilon,
            set_alpha_to_one: Some(true),
            ..config
        };
        let mut sampler = Sampler::new(kind, Schedule::Default, &config).unwrap();
        let (image, added) = (noise(1) * 0.5, noise(2));
        let steps = sampler.image_steps(count, strength).unwrap();
        let mut latent = sampler.add_noise(image.clone(), added.clone(), &steps[0]);
        for step in &steps {
            latent = sampler.step(latent, added.clone(), step, &mut TorchRng::new(0));
        }
        // ddim and pndm stride by whole timesteps, and end where the stride leads them below 0.
        let ends_at_image = match (kind, config.timestep_spacing) {
            (SamplerKind::Ddim | SamplerKind::Pndm, Some(TimestepSpacing::Linspace | TimestepSpacing::Trailing)) => false,
            (SamplerKind::Ddim | SamplerKind::Pndm, _) => count > 1,
            _ => true,
        };
        prop_assume!(ends_at_image);
        let error = relative_error(&values(latent), &values(image));
        prop_assert!(error < 2e-3, "{kind}: {error:.1e}");
    }

    #[test]
    fn any_number_of_steps_stays_finite(
        kind in any_kind(),
        config in any_config(),
        count in 1usize..=100,
    ) {
        let mut sampler = Sampler::new(kind, Schedule::Default, &config).unwrap();
        let fewest = if kind == SamplerKind::Pndm && !config.skip_prk_steps { 4 } else { 1 };
        let steps = sampler.steps(count);
        let most = if matches!(kind, SamplerKind::Lcm | SamplerKind::Tcd) { 50 } else { 100 };
        prop_assert_eq!(steps.is_ok(), (fewest..=most).contains(&count));
        let Ok(steps) = steps else { return Ok(()) };
        let mut rng = TorchRng::new(3);
        let mut latent = sampler.initial(noise(3));
        for step in &steps {
            prop_assert!((0.0..1000.0).contains(&step.timestep));
            let predicted = sampler.scale(latent.clone(), step) * 0.5;
            latent = sampler.step(latent, predicted, step, &mut rng);
        }
        prop_assert!(values(latent).iter().all(|x| x.is_finite()));
    }

    #[test]
    fn a_second_picture_does_not_remember_the_first(kind in any_kind(), config in any_config(), count in 4usize..12) {
        let mut sampler = Sampler::new(kind, Schedule::Default, &config).unwrap();
        let mut picture = |planned: usize, taken: usize| {
            let steps = sampler.steps(planned).unwrap();
            let (mut latent, mut rng) = (sampler.initial(noise(4)), TorchRng::new(5));
            for step in &steps[..taken.min(steps.len())] {
                let predicted = sampler.scale(latent.clone(), step) * 0.5;
                latent = sampler.step(latent, predicted, step, &mut rng);
            }
            values(latent)
        };
        let first = picture(count, usize::MAX);
        picture(count + 3, 2);
        prop_assert_eq!(first, picture(count, usize::MAX));
    }

    #[test]
    fn garbled_configurations_are_errors_at_worst(text in ".{0,200}", cut in 0usize..700, put in "[\\PC]{0,3}") {
        let _ = SchedulerConfig::from_json(&text);
        let mut config = serde_json::to_string(&SchedulerConfig::default()).unwrap();
        let cut = (0..=cut.min(config.len() - 1)).rev().find(|&i| config.is_char_boundary(i)).unwrap();
        config.insert_str(cut, &put);
        if let Ok(config) = SchedulerConfig::from_json(&config) {
            for kind in SamplerKind::ALL {
                if let Ok(mut sampler) = Sampler::new(kind, Schedule::Default, &config) {
                    let _ = sampler.steps(5);
                }
            }
        }
        config.truncate(cut);
        prop_assert!(SchedulerConfig::from_json(&config).is_err());
    }

    #[test]
    fn any_json_is_read_or_refused(
        key in prop::sample::select(vec![
            "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type", "timestep_spacing",
            "steps_offset", "clip_sample_range", "sigma_min", "sigma_max", "solver_type", "disable_corrector", "solver_order",
        ]),
        value in prop_oneof![
            any::<f64>().prop_map(|x| format!("{x:e}")),
            any::<i64>().prop_map(|x| x.to_string()),
            (-3i64..2000).prop_map(|x| x.to_string()),
            prop::collection::vec(-1f64..2.0, 0..20).prop_map(|x| format!("{x:?}")),
            Just("-Infinity".to_owned()), Just("\"leading\"".to_owned()), Just("{}".to_owned()), Just("true".to_owned()),
        ],
        kind in any_kind(),
        count in 0usize..2100,
    ) {
        let mut config = serde_json::to_value(SchedulerConfig::default()).unwrap();
        config.as_object_mut().unwrap().remove(key);
        let config = config.to_string().replacen('{', &format!("{{\"{key}\": {value},"), 1);
        if let Ok(config) = SchedulerConfig::from_json(&config)
            && let Ok(mut sampler) = Sampler::new(kind, Schedule::Default, &config)
        {
            let _ = sampler.steps(count);
        }
    }
}

/// A consistency model that guesses the noise exactly ends at the image, whatever noise is drawn on the way.
#[test]
fn consistency_samplers_end_at_the_image_that_the_model_sees() {
    let config = SchedulerConfig::default();
    let schedule = NoiseSchedule::new(&config).unwrap();
    let image = noise(1) * 0.5;
    for (kind, eta) in [
        (SamplerKind::Lcm, None),
        (SamplerKind::Tcd, Some(0.0)),
        (SamplerKind::Tcd, Some(1.0)),
    ] {
        let mut sampler = Sampler::new(kind, Schedule::Default, &config).unwrap();
        if let Some(eta) = eta {
            sampler = sampler.with_eta(eta).unwrap();
        }
        for count in [1, 4, 8] {
            let steps = sampler.steps(count).unwrap();
            let (mut latent, mut rng) = (sampler.initial(noise(2)), TorchRng::new(3));
            for step in &steps {
                let alpha_bar = schedule.alphas_cumprod()[step.timestep as usize];
                let seen =
                    (latent.clone() - image.clone() * alpha_bar.sqrt()) / (1.0 - alpha_bar).sqrt();
                latent = sampler.step(latent, seen, step, &mut rng);
            }
            // At timestep 0, where tcd ends, there is σ = 0.03 of noise left.
            let error = relative_error(&values(latent), &values(image.clone()));
            let most = if kind == SamplerKind::Lcm { 1e-3 } else { 0.2 };
            assert!(error < most, "{kind} {eta:?} {count}: {error:.1e}");
        }
    }
}

#[test]
fn guidance_leads_from_the_first_half_through_the_second() {
    let data = TensorData::new(vec![1f32, 2.0, 3.0, 5.0], [2, 1, 1, 2]);
    let noise = Tensor::<4>::from_data(data, &parity::device());
    assert_eq!(values(guide(noise.clone(), 1.0)), [3.0, 5.0]);
    assert_eq!(values(guide(noise.clone(), 0.0)), [1.0, 2.0]);
    assert_eq!(values(guide(noise, 7.5)), [16.0, 24.5]);
}
