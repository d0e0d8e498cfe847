use burn::tensor::{Device, Tensor, TensorData};

/// A source of standard normal noise. It draws on the host, so that a seed gives the same picture on every device.
pub trait Noise {
    /// The next `count` values; which ones depends on how many are asked for at a time, as in torch.
    fn normal(&mut self, count: usize) -> Vec<f32>;

    /// `torch.randn(shape)`, uploaded.
    fn randn_tensor(&mut self, shape: [usize; 4], device: &Device) -> Tensor<4> {
        let values = self.normal(shape.iter().product());
        Tensor::from_data(TensorData::new(values, shape), device)
    }
}
