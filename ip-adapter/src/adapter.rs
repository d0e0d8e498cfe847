use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use sd_unet::{CrossAttention, ImageStream, KeyValue, UNet2DConditionModel};

use crate::projection::{HEAD, ImageProjection, Projector, ResamplerConfig};
use crate::{BlankPicture, EncoderInput, Features, IpAdapterError, Uncond, file, layout};

/// An IP-Adapter (Ye et al. 2023): a projector from what an image encoder makes of a picture to tokens, and for each cross-attention
/// layer of a UNet two matrices from tokens to keys and values.
///
/// As a module it has the parameters of the published files under their names, `image_proj.…` and `ip_adapter.N.to_{k,v}_ip.weight`; opened
/// from a file they ask for no gradient until [`unfreeze`](Module::unfreeze).
#[derive(Module, Debug)]
pub struct IpAdapter {
    image_proj: Projector,
    /// One for each attention layer of the UNet, self-attention (even, none) and cross-attention (odd) by turns: down, up, mid.
    ip_adapter: Vec<Option<ImageAttention>>,
    #[module(skip)]
    about: About,
}

/// Keys and values of one cross-attention layer.
#[derive(Module, Debug)]
pub struct ImageAttention {
    to_k_ip: Linear,
    to_v_ip: Linear,
}

impl ImageAttention {
    pub(crate) fn new(context: usize, channels: usize, device: &Device) -> Self {
        let linear = || {
            LinearConfig::new(context, channels)
                .with_bias(false)
                .init(device)
        };
        Self {
            to_k_ip: linear(),
            to_v_ip: linear(),
        }
    }
}

/// What is not a parameter.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub file: String,
    pub variant: Variant,
    pub input: EncoderInput,
    /// Channels of the tokens: those of the UNet's text.
    pub context: usize,
    /// Tokens of a picture, where the projector fixes them.
    pub tokens: Option<usize>,
    /// Channels of each cross-attention layer.
    pub channels: Vec<usize>,
    /// The tensors `ip_adapter.N.to_{q,k,v,out}_lora.{down,up}.weight` by name, as f32.
    pub low_rank: Arc<BTreeMap<String, TensorData>>,
}

/// The kinds of adapters, as far as their tensors tell them apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Variant {
    /// Base, light and vit-G, which differ in their weights and, the last, in the encoder.
    Base,
    /// Plus and plus-face, which differ in their weights alone.
    Plus,
    /// Full-face.
    FullFace,
    /// FaceID.
    FaceId,
    /// FaceID-portrait: FaceID with 16 tokens, for several faces of one person.
    FaceIdPortrait,
    /// FaceID-Plus, version 1 or 2.
    FaceIdPlus(FaceIdPlus),
}

impl Variant {
    /// Whether the adapter takes face embeddings. The published ones are for non-commercial use.
    pub fn is_face_id(self) -> bool {
        matches!(
            self,
            Self::FaceId | Self::FaceIdPortrait | Self::FaceIdPlus(_)
        )
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Base => "base",
            Self::Plus => "plus",
            Self::FullFace => "full-face",
            Self::FaceId => "FaceID",
            Self::FaceIdPortrait => "FaceID-portrait",
            Self::FaceIdPlus(FaceIdPlus::V1) => "FaceID-Plus",
            Self::FaceIdPlus(FaceIdPlus::V2 { .. }) => "FaceID-Plus v2",
        })
    }
}

/// The versions of FaceID-Plus. Their files have the very same tensors, so it has to be said which one a file is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FaceIdPlus {
    /// The resampled tokens take the place of the face's own.
    V1,
    /// The resampled tokens, times `scale`, are added to the face's own. The reference's scale is 1.
    V2 {
        /// The share of the face's structure against its identity.
        scale: f32,
    },
}

/// How an adapter is opened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// The number type of the weights, and of what is computed with them. f32 by default, whatever the file has.
    pub dtype: FloatDType,
    /// The version of a FaceID-Plus file, for which it is needed; for others it is an error.
    pub face_id_plus: Option<FaceIdPlus>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dtype: FloatDType::F32,
            face_id_plus: None,
        }
    }
}

/// Low-rank factors that come with a FaceID adapter, for one linear layer of the UNet: W + up · down at strength 1.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// The layer's path in the UNet, such as `mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0`.
    pub path: String,
    /// `[rank, in]`, f32.
    pub down: TensorData,
    /// `[out, rank]`, f32.
    pub up: TensorData,
}

impl IpAdapter {
    pub(crate) fn new(image_proj: Projector, about: About, device: &Device) -> Self {
        let layers = about.channels.iter().flat_map(|&channels| {
            let attention = ImageAttention::new(about.context, channels, device);
            [None, Some(attention)]
        });
        Self {
            image_proj,
            ip_adapter: layers.collect(),
            about,
        }
    }

    /// A base adapter to be trained: a random projector, and keys and values that begin as the UNet's own for text, as tencent's training
    /// begins. Its weights are f32 and ask for gradients. `pooled` is the width of the image embeddings, 1024 for CLIP ViT-H/14; the published ones have 4 tokens.
    ///
    /// # Panics
    /// If `pooled` or `tokens` is 0, or the UNet's text has another width at another level.
    pub fn base(
        unet: &UNet2DConditionModel,
        pooled: usize,
        tokens: usize,
        device: &Device,
    ) -> Self {
        assert!(
            pooled > 0 && tokens > 0,
            "{pooled} numbers, {tokens} tokens"
        );
        let input = EncoderInput {
            pooled: Some(pooled),
            ..EncoderInput::default()
        };
        Self::fresh(unet, Variant::Base, input, tokens, device, |context| {
            Projector::Image(ImageProjection::new(pooled, tokens, context, device))
        })
    }

    /// A plus adapter to be trained, as [`base`](Self::base): its projector is a resampler of `depth` layers with `heads` heads, whose
    /// channels are those of the UNet's text. `width` are the channels of the image encoder's hidden states, 1280 for CLIP ViT-H/14; the
    /// published ones have 16 tokens, 4 layers and 12 heads.
    ///
    /// # Panics
    /// If a number is 0, or the UNet's text has another width at another level.
    pub fn plus(
        unet: &UNet2DConditionModel,
        width: usize,
        tokens: usize,
        [depth, heads]: [usize; 2],
        device: &Device,
    ) -> Self {
        assert!(
            width > 0 && tokens > 0 && depth > 0 && heads > 0,
            "{width} channels, {tokens} tokens, {depth} layers, {heads} heads"
        );
        let input = EncoderInput {
            penultimate: Some(width),
            ..EncoderInput::default()
        };
        Self::fresh(unet, Variant::Plus, input, tokens, device, |context| {
            let config = ResamplerConfig {
                width,
                channels: context,
                inner: heads * HEAD,
                hidden: 4 * context,
                depth,
                context,
            };
            Projector::Resampler(config.init(tokens, device))
        })
    }

    /// An adapter with a projector as it is made, and the keys and values that the UNet has for text.
    fn fresh(
        unet: &UNet2DConditionModel,
        variant: Variant,
        input: EncoderInput,
        tokens: usize,
        device: &Device,
        projector: impl FnOnce(usize) -> Projector,
    ) -> Self {
        let layers = unet.cross_attentions();
        let context = layers[0].context_channels;
        assert!(
            layers.iter().all(|layer| layer.context_channels == context),
            "the UNet's text has several widths"
        );
        let about = About {
            file: "a new adapter".to_owned(),
            variant,
            input,
            context,
            tokens: Some(tokens),
            channels: layers.iter().map(|layer| layer.channels).collect(),
            low_rank: Arc::default(),
        };
        let mut adapter = Self::new(projector(context), about, device);

        let mut weights = LinearWeights::default();
        unet.visit(&mut weights);
        let text = |path: String| {
            let weight = weights.found.get(&path);
            let weight = weight
                .expect("a UNet's layers have keys and values")
                .clone();
            let data = weight.into_data().convert_dtype(DType::F32);
            Param::from_tensor(Tensor::from_data(data, (device, DType::F32)))
        };
        for (layer, image) in layers.iter().zip(adapter.ip_adapter.iter_mut().flatten()) {
            image.to_k_ip.weight = text(format!("{}.to_k.weight", layer.path));
            image.to_v_ip.weight = text(format!("{}.to_v.weight", layer.path));
        }
        adapter
    }

    /// Opens a safetensors file. Of a large file that is no adapter the header alone is read.
    ///
    /// # Errors
    /// As [`IpAdapter::from_tensors`], and if the file cannot be read or is no whole safetensors file.
    pub fn open(
        path: impl AsRef<Path>,
        options: &Options,
        device: &Device,
    ) -> Result<Self, IpAdapterError> {
        let path = path.as_ref();
        let tensors = file::read(path)?;
        Self::from_tensors(&path.display().to_string(), tensors, options, device)
    }

    /// An adapter of a file's tensors, under the names `image_proj.…` and `ip_adapter.N.…`: those of a `.safetensors` file, and of a nested
    /// `.bin` with its names joined by points. `file` is what errors call it.
    ///
    /// The variant is told by names and shapes, and every tensor is used. Base and light, plus and plus-face have the same tensors and are
    /// computed alike. FaceID-Plus's versions have the same tensors too, but are not: see [`Options`].
    ///
    /// # Errors
    /// If these are not the tensors of an adapter for Stable Diffusion 1.x, if one is missing, left over, of a shape that does not fit the
    /// others, or holds anything but finite floats; if a FaceID-Plus's version is not given, or one is for another variant.
    pub fn from_tensors(
        file: &str,
        tensors: impl IntoIterator<Item = (String, TensorData)>,
        options: &Options,
        device: &Device,
    ) -> Result<Self, IpAdapterError> {
        layout::load(file, tensors.into_iter().collect(), options, device)
    }

    /// Writes a safetensors file in the layout of the published ones, whole or not at all: to a new name beside `path`, which is then renamed.
    ///
    /// # Errors
    /// If the file cannot be written, or a weight is no finite number of type `dtype`.
    pub fn save(&self, path: impl AsRef<Path>, dtype: FloatDType) -> Result<(), IpAdapterError> {
        file::write(path.as_ref(), layout::tensors(self), dtype)
    }

    pub(crate) fn with_low_rank(mut self, low_rank: Arc<BTreeMap<String, TensorData>>) -> Self {
        self.about.low_rank = low_rank;
        self
    }

    pub(crate) fn about(&self) -> &About {
        &self.about
    }

    /// What kind of adapter it is.
    pub fn variant(&self) -> Variant {
        self.about.variant
    }

    /// Tokens of one picture, or `None` where there are as many as the encoder has hidden states.
    pub fn tokens(&self) -> Option<usize> {
        self.about.tokens
    }

    /// What it takes of a picture, with widths.
    pub fn encoder_input(&self) -> EncoderInput {
        self.about.input
    }

    /// Channels of the keys and values of each cross-attention layer, in the order down, up, mid.
    pub fn channels(&self) -> &[usize] {
        &self.about.channels
    }

    /// Makes sure that the adapter is one for a UNet with these cross-attention layers.
    ///
    /// # Errors
    /// Says what differs.
    pub fn check(&self, layers: &[CrossAttention]) -> Result<(), IpAdapterError> {
        let differs = |reason| {
            Err(IpAdapterError::Unet {
                file: self.about.file.clone(),
                reason,
            })
        };
        let channels = &self.about.channels;
        if channels.len() != layers.len() {
            return differs(format!(
                "it has keys and values for {} cross-attention layers, the UNet has {}",
                channels.len(),
                layers.len()
            ));
        }
        for (at, (layer, &channels)) in layers.iter().zip(channels).enumerate() {
            if layer.context_channels != self.about.context {
                return differs(format!(
                    "its tokens have {} channels, the UNet's text has {}",
                    self.about.context, layer.context_channels
                ));
            }
            if layer.channels != channels {
                return differs(format!(
                    "`ip_adapter.{}.to_k_ip.weight` makes {channels} channels, `{}` has {}",
                    2 * at + 1,
                    layer.path,
                    layer.channels
                ));
            }
        }
        Ok(())
    }

    /// Makes sure that an encoder which gives these widths is the right one, before anything is encoded.
    ///
    /// # Errors
    /// Names the right encoder.
    pub fn check_widths(&self, given: &EncoderInput) -> Result<(), IpAdapterError> {
        let needed = &self.about.input;
        let fits = |needed: Option<usize>, given| needed.is_none() || needed == given;
        let face_fits = fits(needed.face, given.face);
        if fits(needed.pooled, given.pooled)
            && fits(needed.penultimate, given.penultimate)
            && face_fits
        {
            return Ok(());
        }
        let advice = match (needed.encoder(), face_fits) {
            (_, false) => {
                "face embeddings are ArcFace's, as InsightFace's `normed_embedding` gives them"
                    .to_owned()
            }
            (Some(encoder), true) => format!("use the image encoder {encoder}"),
            (None, true) => "use the image encoder that the adapter was trained with".to_owned(),
        };
        let named = match given.encoder() {
            Some(encoder) => format!("{given}, those of {encoder}"),
            None => given.to_string(),
        };
        Err(IpAdapterError::Encoder {
            file: self.about.file.clone(),
            expected: needed.to_string(),
            found: named,
            advice,
        })
    }

    /// The tokens of reference pictures.
    ///
    /// # Shapes
    /// - output: `[images, tokens, context]`
    ///
    /// # Errors
    /// If `features` lacks what the adapter takes, has it in another width, or is of several numbers of pictures.
    pub fn image_tokens(&self, features: &Features) -> Result<Tensor<3>, IpAdapterError> {
        self.check_widths(&features.widths())?;
        let dtype = self.dtype();
        let pooled = features
            .pooled
            .as_ref()
            .map(|tensor| tensor.clone().cast(dtype));
        let states = features
            .penultimate
            .as_ref()
            .map(|tensor| tensor.clone().cast(dtype));
        let face = features
            .face
            .as_ref()
            .map(|tensor| tensor.clone().cast(dtype));
        let tokens = match (&self.image_proj, pooled, states, face) {
            (Projector::Image(projector), Some(pooled), _, _) => projector.forward(pooled),
            (Projector::Resampler(projector), _, Some(states), _) => projector.forward(states),
            (Projector::Full(projector), _, Some(states), _) => projector.forward(states),
            (Projector::Face(projector), _, _, Some(face)) => projector.forward(face),
            (Projector::FacePlus(projector), _, Some(states), Some(face)) => {
                let ([faces, _], [images, _, _]) = (face.dims(), states.dims());
                if faces != images {
                    return Err(IpAdapterError::Encoder {
                        file: self.about.file.clone(),
                        expected: "a face embedding for each picture".to_owned(),
                        found: format!("{faces} face embeddings for {images} pictures"),
                        advice: "give one face embedding with each picture".to_owned(),
                    });
                }
                projector.forward(face, states)
            }
            _ => unreachable!("the widths were checked, so all that is needed is there"),
        };
        Ok(tokens)
    }

    /// The picture that has to be encoded for the unconditional input, or `None` where that is made of zeros.
    pub fn blank_picture(&self, uncond: Uncond) -> Option<BlankPicture> {
        self.about.input.penultimate?;
        match uncond {
            Uncond::Reference => Some(BlankPicture::Grey),
            Uncond::Comfy => Some(BlankPicture::Black),
            Uncond::SdCpp => None,
        }
    }

    /// The tokens that the unconditional half of guidance sees, as many as the reference pictures `of` make.
    ///
    /// Embeddings, pooled or of a face, are zeros under every convention. They are projected all the same: the projector's biases make
    /// tokens of zeros that are none. `blank` are the hidden states before the last layer of the picture that
    /// [`blank_picture`](IpAdapter::blank_picture) names, and are not looked at where it names none.
    ///
    /// A negative reference is no unconditional input of this kind: its [`image_tokens`](IpAdapter::image_tokens) take the place of these.
    ///
    /// # Shapes
    /// - `blank`: `[1, positions, width]`
    /// - output: `[images, tokens, context]`
    ///
    /// # Errors
    /// As for [`image_tokens`](IpAdapter::image_tokens); if `blank` is needed and not there.
    pub fn unconditional(
        &self,
        uncond: Uncond,
        of: &Features,
        blank: Option<Tensor<3>>,
    ) -> Result<Tensor<3>, IpAdapterError> {
        let penultimate = match self.blank_picture(uncond) {
            None => of.penultimate.as_ref().map(Tensor::zeros_like),
            Some(_) => blank.map(|blank| {
                let images = of.penultimate.as_ref().map_or(1, |states| states.dims()[0]);
                blank.repeat_dim(0, images)
            }),
        };
        self.image_tokens(&Features {
            pooled: of.pooled.as_ref().map(Tensor::zeros_like),
            penultimate,
            face: of.face.as_ref().map(Tensor::zeros_like),
        })
    }

    /// Keys and values of each cross-attention layer, in the order down, up, mid. They are the same at every step.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, tokens, context]`
    /// - each key and value: `[batch, tokens, channels]`
    pub fn key_values(&self, tokens: Tensor<3>) -> Vec<KeyValue> {
        let tokens = tokens.cast(self.dtype());
        let layers = self.ip_adapter.iter().flatten();
        layers
            .map(|layer| KeyValue {
                key: layer.to_k_ip.forward(tokens.clone()),
                value: layer.to_v_ip.forward(tokens.clone()),
            })
            .collect()
    }

    /// A stream for the UNet's conditioning, of weight 1.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, tokens, context]`
    pub fn stream(&self, tokens: Tensor<3>) -> ImageStream {
        ImageStream::new(self.key_values(tokens))
    }

    /// The low-rank factors that a FaceID file brings for the UNet with these cross-attention layers; none for other files. The adapter was
    /// trained with them at strength 1.
    ///
    /// # Errors
    /// As [`IpAdapter::check`].
    pub fn low_rank(&self, layers: &[CrossAttention]) -> Result<Vec<LowRank>, IpAdapterError> {
        self.check(layers)?;
        Ok(layout::low_rank(self, layers))
    }

    fn dtype(&self) -> FloatDType {
        let first = self.ip_adapter.iter().flatten().next();
        first.map_or(FloatDType::F32, |layer| {
            layer.to_k_ip.weight.val().dtype().into()
        })
    }
}

/// Weights of linear layers by path.
#[derive(Default)]
struct LinearWeights {
    path: Vec<String>,
    found: BTreeMap<String, Tensor<2>>,
}

impl ModuleVisitor for LinearWeights {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        if path.ends_with(".attn2.to_k.weight") || path.ends_with(".attn2.to_v.weight") {
            let weight = param.val();
            let (rows, columns) = (weight.dims()[0], weight.dims()[1]);
            self.found.insert(path, weight.reshape([rows, columns]));
        }
    }
}
