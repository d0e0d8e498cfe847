use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

/// What a random draw is for, so that no two draws of a run share a stream.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub(crate) enum Purpose {
    /// The order of the pictures in an epoch.
    Order = 1,
    /// Which of its possible latents a picture becomes.
    Latent = 2,
    /// The noise that is added to a latent.
    Noise = 3,
    /// How much of it.
    Timestep = 4,
    /// The first values of a factor.
    Factor = 5,
}

/// The random stream of one purpose of one sample of one step: it depends on these numbers alone, and on nothing that was drawn before. So a
/// run that was interrupted goes on to the very same result, and two runs of one seed are equal to the bit.
pub(crate) struct Stream(ChaCha8Rng);

impl Stream {
    pub fn new(seed: u64, step: u64, sample: u64, purpose: Purpose) -> Self {
        let mut key = [0; 32];
        for (bytes, word) in
            key.as_chunks_mut::<8>()
                .0
                .iter_mut()
                .zip([seed, step, sample, purpose as u64])
        {
            *bytes = word.to_le_bytes();
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// `count` values of the standard normal distribution.
    pub fn normal(mut self, count: usize) -> Vec<f32> {
        StandardNormal
            .sample_iter(&mut self.0)
            .take(count)
            .collect()
    }

    /// `count` values uniform in `[-bound, bound)`.
    pub fn uniform(mut self, bound: f32, count: usize) -> Vec<f32> {
        let unit = |word: u32| (word >> 8) as f32 / (1 << 24) as f32;
        (0..count)
            .map(|_| (2.0 * unit(self.0.next_u32()) - 1.0) * bound)
            .collect()
    }

    /// A whole number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.0.next_u64()) * end as u128) >> 64) as usize
    }

    /// The numbers `0..count` in random order (Fisher & Yates).
    pub fn order(mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            let other = self.below(last + 1);
            order.swap(last, other);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_depends_on_its_four_numbers_alone() {
        let draw = |seed, step, sample, purpose| Stream::new(seed, step, sample, purpose).normal(5);
        let one = draw(7, 3, 1, Purpose::Noise);
        assert_eq!(one, draw(7, 3, 1, Purpose::Noise));
        for other in [
            draw(8, 3, 1, Purpose::Noise),
            draw(7, 4, 1, Purpose::Noise),
            draw(7, 3, 2, Purpose::Noise),
            draw(7, 3, 1, Purpose::Latent),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn draws_have_the_distribution_they_claim() {
        let normal = Stream::new(1, 0, 0, Purpose::Noise).normal(40_000);
        let mean = normal.iter().sum::<f32>() / 4e4;
        let square = normal.iter().map(|x| x * x).sum::<f32>() / 4e4;
        assert!(
            mean.abs() < 0.02 && (square - 1.0).abs() < 0.03,
            "{mean} {square}"
        );

        let uniform = Stream::new(1, 0, 0, Purpose::Factor).uniform(0.5, 40_000);
        let square = uniform.iter().map(|x| x * x).sum::<f32>() / 4e4;
        assert!(uniform.iter().all(|x| (-0.5..0.5).contains(x)));
        assert!((square - 1.0 / 12.0).abs() < 0.003, "{square}");
    }

    #[test]
    fn an_order_has_every_number_once() {
        let mut order = Stream::new(3, 9, 0, Purpose::Order).order(50);
        assert_ne!(order, (0..50).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..50).collect::<Vec<_>>());
    }
}
