use std::fmt;
use std::str::FromStr;

use burn::tensor::Tensor;

use crate::IpAdapterError;

/// What an image encoder and a face network made of reference pictures, one row for each picture. An adapter takes what it needs of it.
#[derive(Clone, Debug, Default)]
pub struct Features {
    /// The encoder's projected embedding, `[images, width]`: transformers' `image_embeds`.
    pub pooled: Option<Tensor<2>>,
    /// The encoder's hidden states before the last layer, `[images, positions, width]`: transformers' `hidden_states[-2]`.
    pub penultimate: Option<Tensor<3>>,
    /// Face embeddings, `[images, width]`: ArcFace's 512 numbers, of length 1.
    pub face: Option<Tensor<2>>,
}

impl Features {
    /// The mean over the pictures, as of one picture: an average reference.
    pub fn average(&self) -> Self {
        Self {
            pooled: self.pooled.clone().map(|tensor| tensor.mean_dim(0)),
            penultimate: self.penultimate.clone().map(|tensor| tensor.mean_dim(0)),
            face: self.face.clone().map(|tensor| tensor.mean_dim(0)),
        }
    }

    /// The widths of what there is.
    pub fn widths(&self) -> EncoderInput {
        EncoderInput {
            pooled: self.pooled.as_ref().map(|tensor| tensor.dims()[1]),
            penultimate: self.penultimate.as_ref().map(|tensor| tensor.dims()[2]),
            face: self.face.as_ref().map(|tensor| tensor.dims()[1]),
        }
    }
}

/// Widths of the [`Features`] that an adapter takes, or an encoder gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncoderInput {
    /// Of the projected embedding.
    pub pooled: Option<usize>,
    /// Of the hidden states before the last layer.
    pub penultimate: Option<usize>,
    /// Of a face embedding.
    pub face: Option<usize>,
}

impl EncoderInput {
    /// The image encoder that has these widths, if it is one that adapters are published for: `CLIP ViT-H/14`, …
    pub fn encoder(&self) -> Option<&'static str> {
        match (self.pooled, self.penultimate) {
            (Some(768), None | Some(1024)) | (None, Some(1024)) => Some("CLIP ViT-L/14"),
            (Some(1024), None | Some(1280)) | (None, Some(1280)) => Some("CLIP ViT-H/14"),
            (Some(1280), None | Some(1664)) | (None, Some(1664)) => Some("CLIP ViT-bigG/14"),
            _ => None,
        }
    }
}

impl fmt::Display for EncoderInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = [
            (self.pooled, "image embeddings"),
            (self.penultimate, "hidden states before the last layer"),
            (self.face, "face embeddings"),
        ]
        .into_iter()
        .filter_map(|(width, name)| Some(format!("{name} of width {}", width?)))
        .collect();
        match parts.as_slice() {
            [] => f.write_str("nothing"),
            parts => f.write_str(&parts.join(" and ")),
        }
    }
}

/// What the unconditional half of guidance is shown in place of a reference. Engines differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Uncond {
    /// As tencent's code and diffusers: embeddings of zero; hidden states of a picture that is zero *after* normalisation, a mean grey.
    #[default]
    Reference,
    /// As ComfyUI's IPAdapter plus: hidden states of a black picture.
    Comfy,
    /// As stable-diffusion.cpp: hidden states of zero.
    SdCpp,
}

impl FromStr for Uncond {
    type Err = IpAdapterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "reference" => Ok(Self::Reference),
            "comfy" => Ok(Self::Comfy),
            "sdcpp" => Ok(Self::SdCpp),
            _ => Err(IpAdapterError::Uncond {
                text: text.to_owned(),
            }),
        }
    }
}

impl fmt::Display for Uncond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reference => "reference",
            Self::Comfy => "comfy",
            Self::SdCpp => "sdcpp",
        })
    }
}

/// The picture whose hidden states an unconditional input is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlankPicture {
    /// Zero in every channel after normalisation.
    Grey,
    /// Zero in every channel before normalisation.
    Black,
}

/// Several references as one: all their tokens side by side, as diffusers does with several images of one adapter.
///
/// # Shapes
/// - `tokens`: `[images, tokens, context]`
/// - output: `[1, images · tokens, context]`
pub fn concat(tokens: Tensor<3>) -> Tensor<3> {
    let [images, count, context] = tokens.dims();
    tokens.reshape([1, images * count, context])
}

/// Tokens of the unconditional and the conditional half of a guided batch.
///
/// Where one half has more tokens, both are repeated until they are as many. That changes nothing: a softmax over keys that are each there
/// *n* times gives each an *n*-th. So a negative reference need not have as many pictures as the positive one.
///
/// # Shapes
/// - `negative`: `[1, n, context]`
/// - `positive`: `[1, m, context]`
/// - output: `[2, lcm(n, m), context]`, the negative first
///
/// # Panics
/// If either has other than one row, or there are no tokens.
pub fn pair(negative: Tensor<3>, positive: Tensor<3>) -> Tensor<3> {
    let ([one, n, _], [other, m, _]) = (negative.dims(), positive.dims());
    assert!(
        one == 1 && other == 1 && n > 0 && m > 0,
        "a pair is made of [1, tokens, context] each, not of {:?} and {:?}",
        negative.dims(),
        positive.dims()
    );
    let common = n / gcd(n, m) * m;
    Tensor::cat(
        vec![
            negative.repeat_dim(1, common / n),
            positive.repeat_dim(1, common / m),
        ],
        0,
    )
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conventions_are_read_as_they_are_written() {
        for uncond in [Uncond::Reference, Uncond::Comfy, Uncond::SdCpp] {
            assert_eq!(uncond.to_string().parse::<Uncond>().unwrap(), uncond);
        }
        let error = "zero".parse::<Uncond>().unwrap_err().to_string();
        assert!(
            error.contains("`zero`") && error.contains("`reference`, `comfy` or `sdcpp`"),
            "{error}"
        );
    }
}
