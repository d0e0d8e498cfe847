use std::ops::Range;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use clip_vision::{ClipVisionModelWithProjection, ClipVisionOutput};
use image::RgbImage;
use ip_adapter::{Features, IpAdapter};
use safetensors::tensor::TensorView;
use safetensors::{SafeTensorError, SafeTensors};
use sd_unet::Conditioning;

use super::clip::{append, face, softened};
use super::layout::SIZE;
use super::{Painter, Painting, Stream, token_tensor, training_caption};
use crate::puppet::{Angle, Easel, Shot};

/// A painter and an IP-Adapter that learn together: the UNet learns to make use of a face, as the adapter learns to tell it.
#[derive(Module, Debug)]
pub struct Portraitist {
    /// Text encoder and UNet.
    pub painter: Painter,
    /// What tells the UNet of a face.
    pub adapter: IpAdapter,
}

/// Layers of the resampler in a plus adapter's file.
///
/// # Errors
/// If it is no safetensors file.
pub fn resampler_layers(file: &[u8]) -> Result<usize, SafeTensorError> {
    let names = SafeTensors::deserialize(file)?;
    let outputs = (names.names().into_iter()).filter(|name| name.ends_with(".0.to_out.weight"));
    Ok(outputs.count())
}

/// A plus adapter's file with one more layer in its resampler, which changes nothing yet: what it adds to the stream is zero. All that the
/// new layer has is in `deeper`, an adapter's file of that depth with random weights.
///
/// # Errors
/// If one of the two is no safetensors file.
pub fn deepened(file: &[u8], deeper: &[u8]) -> Result<Vec<u8>, SafeTensorError> {
    let (file, deeper) = (
        SafeTensors::deserialize(file)?,
        SafeTensors::deserialize(deeper)?,
    );
    let silent: Vec<u8> = vec![0; deeper.iter().map(|(_, view)| view.data().len()).sum()];
    let tensors = deeper.iter().map(|(name, fresh)| {
        let last = name.ends_with(".to_out.weight") || name.ends_with(".1.3.weight");
        let view = match file.tensor(name) {
            Ok(there) => there,
            Err(_) if last => TensorView::new(
                fresh.dtype(),
                fresh.shape().to_vec(),
                &silent[..fresh.data().len()],
            )?,
            Err(_) => fresh,
        };
        Ok((name.to_owned(), view))
    });
    let tensors = tensors.collect::<Result<Vec<_>, SafeTensorError>>()?;
    safetensors::serialize(tensors, None)
}

/// What an IP-Adapter learns from (Ye et al. 2023): the face in one picture of a character is to help in the denoising of another picture.
/// The image encoder stays as it is.
pub struct Portraying {
    /// The pictures that are denoised.
    pub painting: Painting,
    /// The image encoder, on the device without gradients.
    pub image_encoder: ClipVisionModelWithProjection,
}

impl Portraying {
    /// The loss over samples of the run, of an adapter and of the painter that it tells, both on the device with gradients. One sample in ten
    /// has no words, and one in ten no face; then the adapter sees what it sees in the unconditional half of guidance: zeros, or the hidden
    /// states of a grey picture.
    pub fn loss(
        &self,
        painter: &Painter,
        adapter: &IpAdapter,
        samples: Range<u64>,
        plain: &Device,
        training: &Device,
    ) -> Tensor<1> {
        let count = (samples.end - samples.start) as usize;
        let mut easel = Easel::default();
        let mut picture = RgbImage::new(SIZE as u32, SIZE as u32);
        let (mut faces, mut seen, mut tokens) = (vec![], vec![], vec![]);
        for number in samples.clone() {
            let example = self.painting.latents.example(number);
            let family = self.painting.latents.family(number);
            let mut random = Stream::new(self.painting.seed, family, "portrait");
            let mut shot = Shot::random(random.word());
            // A reference is near-frontal as a rule.
            if random.unit() < 0.5 {
                shot.angle = Angle::Front;
            }
            easel.draw_into(&example.character, &shot, SIZE as u32, &mut picture);
            let face = face(&picture, &example.character, &shot, &mut random);
            let shown = random.unit() >= 0.1;
            if shown {
                append(&mut faces, &softened(&face, &mut random));
            } else {
                faces.resize(faces.len() + 3 * SIZE * SIZE, 0.0);
            }
            seen.push(f32::from(u8::from(shown)));
            let mut random = Stream::new(self.painting.seed, family, "words");
            let words = training_caption(&example, &mut random);
            tokens.push(self.painting.tokenizer.encode_padded(&words));
        }
        let faces = Tensor::from_data(TensorData::new(faces, [count, 3, SIZE, SIZE]), plain);
        let ClipVisionOutput {
            image_embeds,
            penultimate,
            ..
        } = self.image_encoder.forward(faces);
        let seen = Tensor::<2>::from_data(TensorData::new(seen, [count, 1]), plain);
        let features = Features {
            pooled: Some(Tensor::from_inner(image_embeds * seen)),
            penultimate: Some(Tensor::from_inner(penultimate)),
            face: None,
        };
        let image = adapter
            .image_tokens(&features)
            .expect("an adapter takes what its image encoder gives");
        let tokens = token_tensor(tokens.into_iter(), training);
        let text = painter.text_encoder.forward(tokens);
        let conditioning = Conditioning::text(text).with(adapter.stream(image));
        self.painting
            .loss_with(&painter.unet, &conditioning, samples, training)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, FloatDType};
    use ip_adapter::Options;

    use super::*;

    #[test]
    fn a_deeper_resampler_says_the_same_at_first() {
        let device = Device::flex();
        let unet = Painter::new(16, &device).unet;
        let folder = tempfile::tempdir().expect("a folder");
        let file = |depth: usize| {
            let path = folder.path().join(format!("{depth}.safetensors"));
            let adapter = IpAdapter::plus(&unet, 32, 3, [depth, 1], &device);
            adapter.save(&path, FloatDType::F32).expect("written");
            std::fs::read(&path).expect("read")
        };
        let (shallow, deeper) = (file(1), file(2));
        let whole = deepened(&shallow, &deeper).expect("both are adapters");
        assert_eq!(resampler_layers(&shallow).ok(), Some(1));
        assert_eq!(resampler_layers(&whole).ok(), Some(2));

        let seen = Features {
            penultimate: Some(Tensor::random([2, 9, 32], Distribution::Default, &device)),
            ..Features::default()
        };
        let tokens = |bytes: &[u8]| {
            let path = folder.path().join("one.safetensors");
            std::fs::write(&path, bytes).expect("written");
            let adapter = IpAdapter::open(&path, &Options::default(), &device).expect("opened");
            adapter.image_tokens(&seen).expect("tokens").into_data()
        };
        assert_eq!(tokens(&whole), tokens(&shallow));
        assert_ne!(tokens(&deeper), tokens(&shallow));
    }
}
