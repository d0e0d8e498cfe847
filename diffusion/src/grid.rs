//! Which timesteps and σ a sampler visits. Arithmetic as in numpy: f64, rounded to f32 where diffusers does.

use crate::TimestepSpacing;

/// The end of the schedule that a spacing leaves out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Points {
    /// As many points as steps.
    Steps,
    /// One point more, the lowest of which is only the end of the last step (the multistep solvers).
    StepsAndEnd,
}

/// The timesteps in the order of sampling, not rounded for [`TimestepSpacing::Linspace`].
///
/// diffusers computes the trailing spacing by `np.arange(n, 0, −n / steps)`, which for some counts (61, 103, …) yields one point too
/// many, the timestep −1. Here there are always `steps` points.
pub(crate) fn spaced(
    spacing: TimestepSpacing,
    points: Points,
    trained: usize,
    steps: usize,
    offset: usize,
) -> Vec<f64> {
    let count = steps + usize::from(points == Points::StepsAndEnd);
    let rising: Vec<f64> = match spacing {
        TimestepSpacing::Linspace => linspace(0.0, (trained - 1) as f64, count),
        TimestepSpacing::Leading => {
            let ratio = trained / count;
            (0..count).map(|i| (i * ratio + offset) as f64).collect()
        }
        TimestepSpacing::Trailing => {
            let start = trained as f64;
            // numpy's arange multiplies the difference of its first two values.
            let step = (start - start / steps as f64) - start;
            return (0..steps)
                .map(|i| (start + i as f64 * step).round_ties_even() - 1.0)
                .collect();
        }
    };
    rising.into_iter().rev().take(steps).collect()
}

/// `np.linspace`.
pub(crate) fn linspace(start: f64, end: f64, count: usize) -> Vec<f64> {
    let step = (end - start) / count.saturating_sub(1).max(1) as f64;
    (0..count)
        .map(|i| match i {
            0 => start,
            i if i + 1 == count => end,
            i => i as f64 * step + start,
        })
        .collect()
}

/// `np.interp(timestep, 0.., sigmas)`: σ at a timestep that may lie between two levels.
pub(crate) fn interpolate(sigmas: &[f32], timestep: f64) -> f64 {
    let last = sigmas.len() - 1;
    let low = (timestep.max(0.0) as usize).min(last);
    let at = |i: usize| f64::from(sigmas[i]);
    if low == last {
        return at(last);
    }
    (at(low + 1) - at(low)) * (timestep.max(0.0) - low as f64) + at(low)
}

/// σ from `max` to `min` in equal steps of σ^(1/ρ), ρ = 7 (Karras et al. 2022, eq. 5).
pub(crate) fn karras(min: f64, max: f64, steps: usize) -> Vec<f64> {
    const RHO: f64 = 7.0;
    let (min, max) = (min.powf(1.0 / RHO), max.powf(1.0 / RHO));
    linspace(0.0, 1.0, steps)
        .into_iter()
        .map(|ramp| (max + ramp * (min - max)).powf(RHO))
        .collect()
}

/// The timestep of a σ, between two levels on the scale of log σ.
pub(crate) fn timestep_of(sigma: f64, log_sigmas: &[f32]) -> f64 {
    let log_sigma = sigma.max(1e-10).ln();
    let at = |i: usize| f64::from(log_sigmas[i]);
    let low = (0..log_sigmas.len())
        .rposition(|i| log_sigma >= at(i))
        .unwrap_or(0)
        .min(log_sigmas.len() - 2);
    let share = ((at(low) - log_sigma) / (at(low) - at(low + 1))).clamp(0.0, 1.0);
    (1.0 - share) * low as f64 + share * (low + 1) as f64
}
