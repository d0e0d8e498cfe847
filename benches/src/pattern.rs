use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};

/// Elements `seed, seed + 1, …` of a fixed sequence that looks random, uniform in `[-scale, scale)`: the same in `torch_side.py`, so that
/// both sides compute on the same numbers.
pub fn pattern<const D: usize>(
    shape: [usize; D],
    seed: u32,
    scale: f64,
    device: &Device,
) -> Tensor<D> {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count as u32)
        .map(|at| value(seed.wrapping_add(at)) * scale as f32)
        .collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn value(at: u32) -> f32 {
    let mut mixed = at.wrapping_mul(2_654_435_761);
    mixed ^= mixed >> 15;
    mixed = mixed.wrapping_mul(2_246_822_519);
    mixed ^= mixed >> 13;
    // 24 bits, which an f32 holds exactly.
    (mixed >> 8) as f32 / (1 << 23) as f32 - 1.0
}

/// A model whose matrices and kernels hold random numbers of a size that keeps activations about 1, in a fraction of the time that burn's
/// own initialisation takes at full size: a short sequence is repeated. All its numbers become `dtype`.
pub fn fill<M: Module>(model: M, dtype: FloatDType) -> M {
    let short = (0..1 << 20).map(value).collect();
    model.map(&mut Fill { short, dtype }).no_grad()
}

struct Fill {
    short: Vec<f32>,
    dtype: FloatDType,
}

impl ModuleMapper for Fill {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if D < 2 {
            return param.map(|value| value.cast(self.dtype));
        }
        let (shape, device) = (param.lazy_shape(), param.lazy_device());
        let fan_in: usize = match D {
            2 => shape[0],
            _ => shape[1..].iter().product(),
        };
        let scale = (3.0 / fan_in as f32).sqrt();
        let scaled: Vec<f32> = self.short.iter().map(|value| value * scale).collect();
        let count = shape.num_elements();
        let mut values = Vec::with_capacity(count);
        while values.len() < count {
            values.extend_from_slice(&scaled[..scaled.len().min(count - values.len())]);
        }
        let values = TensorData::new(values, shape);
        let tensor = Tensor::from_data(values, (&device, self.dtype.into()));
        Param::initialized(param.id, tensor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::LinearConfig;
    use parity::{device, values};

    #[test]
    fn the_sequence_is_torch_sides_own() {
        // numpy's, by `torch_side.py`.
        let wanted = WANTED;
        assert_eq!(values(pattern([4], 7, 1.0, &device())), wanted);
    }

    const WANTED: [f32; 4] = [-0.252_191_07, 0.794_468_3, 0.152_126_07, -0.595_121_86];

    #[test]
    fn a_filled_layer_keeps_the_size_of_what_goes_through() {
        let layer = fill(
            LinearConfig::new(1024, 512).init(&device()),
            FloatDType::F32,
        );
        let input = pattern([64, 1024], 3, 3f64.sqrt(), &device());
        let out = values(layer.forward(input));
        let square = out.iter().map(|x| x * x).sum::<f32>() / out.len() as f32;
        assert!((0.8..1.25).contains(&square), "{square}");
    }
}
