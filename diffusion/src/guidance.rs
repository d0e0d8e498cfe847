use burn::tensor::Tensor;

/// Classifier-free guidance (Ho and Salimans 2022): `unconditional + cfg · (conditional − unconditional)`.
///
/// At `cfg` 1 this is the conditional half: evaluate that alone and leave this out.
///
/// # Shapes
/// - `noise`: `[2 · batch, channels, height, width]`, the unconditional predictions, then the conditional ones
/// - output: `[batch, channels, height, width]`
///
/// # Panics
/// If the first axis of `noise` is odd.
pub fn guide(noise: Tensor<4>, cfg: f64) -> Tensor<4> {
    let [both, ..] = noise.dims();
    assert!(
        both % 2 == 0,
        "guidance takes two predictions for each picture, not {both} in all"
    );
    let batch = both / 2;
    let unconditional = noise.clone().narrow(0, 0, batch);
    let conditional = noise.narrow(0, batch, batch);
    unconditional.clone() + (conditional - unconditional) * cfg
}
