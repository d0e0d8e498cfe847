use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use clip_text::ClipTextModel;
use clip_vision::{ClipVisionModelWithProjection, ClipVisionOutput};
use image::RgbImage;
use ip_adapter::{Features, IpAdapter};
use sd_unet::{Conditioning, UNet2DConditionModel};

use super::clip::{append, face, softened};
use super::layout::SIZE;
use super::{Painting, Stream, token_tensor, training_caption};
use crate::puppet::{Angle, Easel, Shot};

/// What an IP-Adapter learns from (Ye et al. 2023): the face in one picture of a character is to help in the denoising of another picture.
/// Text encoder, UNet and image encoder stay as they are.
pub struct Portraying {
    /// The pictures that are denoised.
    pub painting: Painting,
    /// The text encoder, on the device without gradients.
    pub text_encoder: ClipTextModel,
    /// The UNet, on the device with gradients, though it asks for none.
    pub unet: UNet2DConditionModel,
    /// The image encoder, on the device without gradients.
    pub image_encoder: ClipVisionModelWithProjection,
}

impl Portraying {
    /// The loss over samples of the run. One sample in ten has no words, and one in ten no face; then the adapter sees what it sees in the
    /// unconditional half of guidance: zeros, or the hidden states of a grey picture.
    pub fn loss(
        &self,
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
        let text = self
            .text_encoder
            .forward(token_tensor(tokens.into_iter(), plain));
        let conditioning = Conditioning::text(Tensor::from_inner(text)).with(adapter.stream(image));
        self.painting
            .loss_with(&self.unet, &conditioning, samples, training)
    }
}
